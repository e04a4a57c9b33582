"""Planning as a task to learn: Gymnasium's conventions, and that an episode is a function of seed and actions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from flexspec_mq.controller.action_space import ACTIONS, FEATURES, MACRO, features, known
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.simulator.answers import Setting
from lab.simulator.environment import Episode, PlanningEnvironment
from lab.testbed.link.profiles import LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, made

RECORDING = made(texts=3, prompt=40)
SETTING = Setting(recording=RECORDING, times=TIMES)
STREAMING = next(number for number, action in enumerate(ACTIONS) if action.name == "nobody")
DRAFTING = next(number for number, action in enumerate(ACTIONS) if action.name == "K 4, W 2")


def drawn(seed: int) -> Episode:
    link = LinkPlan("4g-moving", built_in().get("4g-moving"), seed)
    return Episode(replace(SETTING, link=link, seed=seed), RECORDING.texts)


def run(seed: int, action: int) -> list[tuple[list[float], float, dict[str, Any]]]:
    environment = PlanningEnvironment(drawn)
    numbers, told = environment.reset(seed=seed)
    found = [(numbers, 0.0, told)]
    ended = False
    while not ended:
        numbers, reward, ended, cut, told = environment.step(action)
        assert not cut
        found.append((numbers, reward, told))
    return found


@pytest.mark.parametrize("action", [STREAMING, DRAFTING])
def test_an_episode_is_all_of_its_texts_and_its_return_is_their_time(action: int) -> None:
    steps = run(3, action)
    for numbers, reward, told in steps:
        assert len(numbers) == PlanningEnvironment.size == len(FEATURES)
        assert numbers == features(told["seen"])
        assert known(told["seen"])
        assert reward <= 0.0
    texts = [told["text"] for _, _, told in steps]
    assert texts == sorted(texts)
    assert texts[-1] == len(RECORDING.texts) - 1
    forward = TIMES.rows[0](1.0) / 1000
    first, last = steps[0][2], steps[-1][2]
    assert sum(reward for _, reward, _ in steps) * forward == pytest.approx(first["at"] - last["at"])
    assert last["ended"] == last["at"]


def test_a_step_goes_on_for_some_tokens() -> None:
    told = [told for _, _, told in run(1, STREAMING)]
    within = [
        after["committed"] - before["committed"]
        for before, after in pairwise(told)
        if before["text"] == after["text"]
    ]
    assert min(within[:-1]) >= MACRO


def test_equal_seeds_and_actions_give_equal_episodes_and_others_do_not() -> None:
    assert run(5, DRAFTING) == run(5, DRAFTING)
    assert run(5, DRAFTING) != run(6, DRAFTING)
    assert run(5, DRAFTING)[-1][2]["at"] != run(5, STREAMING)[-1][2]["at"]


def test_without_a_seed_episodes_differ_and_follow_from_the_last_seed() -> None:
    def seeds() -> list[int]:
        asked: list[int] = []

        def draw(seed: int) -> Episode:
            asked.append(seed)
            return drawn(seed)

        environment = PlanningEnvironment(draw)
        environment.reset(seed=4)
        environment.reset()
        environment.reset()
        return asked

    assert seeds() == seeds()
    assert len(set(seeds())) == 3


def test_what_is_no_action_or_no_episode_is_refused() -> None:
    environment = PlanningEnvironment(drawn)
    with pytest.raises(FlexSpecError, match="reset"):
        environment.step(0)
    with pytest.raises(UsageError, match="no option 'fast'"):
        environment.reset(seed=1, options={"fast": True})
    environment.reset(seed=1)
    for action in (-1, PlanningEnvironment.actions):
        with pytest.raises(UsageError, match="is not between"):
            environment.step(action)
    ended = False
    while not ended:
        *_, ended, _, _ = environment.step(STREAMING)
    with pytest.raises(FlexSpecError, match="reset"):
        environment.step(0)
