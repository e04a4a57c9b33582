"""Planning as a task to learn: an episode is a function of seed and actions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from flexspec_mq.controller.rl import ACTIONS, MACRO, known
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.simulator.answers import Setting
from lab.simulator.environment import Episode, PlanningEnvironment, Step
from lab.testbed.link.profiles import LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, made

RECORDING = made(texts=3, prompt=40)
SETTING = Setting(recording=RECORDING, times=TIMES)
STREAMING = next(number for number, action in enumerate(ACTIONS) if action.name == "nobody")
DRAFTING = next(number for number, action in enumerate(ACTIONS) if action.name == "K 4, W 2")


def drawn(seed: int) -> Episode:
    link = LinkPlan("4g-moving", built_in().get("4g-moving"), seed)
    return Episode(replace(SETTING, link=link, seed=seed), RECORDING.texts)


def run(seed: int, action: int) -> list[Step]:
    environment = PlanningEnvironment(drawn)
    steps = [environment.reset(seed)]
    while not steps[-1].over:
        steps.append(environment.step(action))
        assert not steps[-1].cut
    return steps


@pytest.mark.parametrize("action", [STREAMING, DRAFTING])
def test_an_episode_is_all_of_its_texts_a_few_tokens_a_step(action: int) -> None:
    steps = run(3, action)
    assert all(known(step.seen) for step in steps)
    assert all(one.text <= other.text and one.at <= other.at for one, other in pairwise(steps))
    assert steps[-1].text == len(RECORDING.texts) - 1
    assert steps[-1].ended == steps[-1].at
    within = [b.seen.committed - a.seen.committed for a, b in pairwise(steps) if a.text == b.text]
    assert min(within[:-1]) >= MACRO


def test_equal_seeds_and_actions_give_equal_episodes_and_others_do_not() -> None:
    assert run(5, DRAFTING) == run(5, DRAFTING)
    assert run(5, DRAFTING) != run(6, DRAFTING)
    assert run(5, DRAFTING)[-1].at != run(5, STREAMING)[-1].at


def test_what_is_no_action_or_no_episode_is_refused() -> None:
    environment = PlanningEnvironment(drawn)
    with pytest.raises(FlexSpecError, match="reset"):
        environment.step(0)
    environment.reset(1)
    for action in (-1, len(ACTIONS)):
        with pytest.raises(UsageError, match="is not between"):
            environment.step(action)
    while not environment.step(STREAMING).over:
        pass
    with pytest.raises(FlexSpecError, match="reset"):
        environment.step(0)
