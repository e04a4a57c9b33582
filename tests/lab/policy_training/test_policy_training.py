"""Planning as a task to learn: an episode is a function of seed and actions, and training learns what there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.cli import main
from flexspec_mq.controller.rl import ACTIONS, FEATURES, MACRO, known, read_network
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.policy_training import training as policy_training
from lab.policy_training.branching import branch
from lab.policy_training.episodes import drawn_episode
from lab.policy_training.learner import Learner
from lab.policy_training.samples import Samples
from lab.simulator.answers import Setting
from lab.simulator.environment import Episode, PlanningEnvironment, Step
from lab.testbed.link.profiles import LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, random_recording

RECORDING = random_recording(texts=3, prompt=40)
SETTING = Setting(recording=RECORDING, times=TIMES)


def quick(seed: int) -> Episode:
    return Episode(replace(SETTING, seed=seed), RECORDING.texts[1:3])


def samples(rows: int, seed: int) -> Samples:
    """States of which one number tells the best action: the first one below 0, else the fifth."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((rows, len(FEATURES))).astype(np.float32)
    seconds = 1.0 + rng.uniform(0.2, 0.6, (rows, len(ACTIONS))).astype(np.float32)
    seconds[np.arange(rows), np.where(numbers[:, 2] < 0, 0, 4)] = 1.0
    one = np.ones(rows, np.float32)
    return Samples(numbers, seconds, one, np.arange(rows, dtype=np.float32))


def test_the_network_learns_which_action_is_best_and_devices_compute_the_same() -> None:
    learner = Learner(1)
    other = samples(400, 2)
    before = learner.excess(other)
    learner.fit(samples(2000, 1), 300)
    assert before > 0.3
    assert learner.excess(other) < 0.03
    network = learner.network()
    for numbers, scores in zip(other.numbers[:20], learner.scores(other.numbers[:20]), strict=True):
        assert network.scores(list(map(float, numbers))) == pytest.approx(scores.tolist(), abs=1e-3)


def test_a_branch_is_what_its_action_takes() -> None:
    environment = PlanningEnvironment(quick)
    rows = next(found for seed in range(50) if (found := branch(environment, seed, lambda _: 1)))
    first, *others = rows
    assert first.branched
    assert not any(row.branched for row in others)
    # Batches end by confidence, so that some of the lengths come to the same.
    assert len({round(one, 9) for one in first.seconds}) > len(ACTIONS) / 4
    for row in rows:
        assert len(row.numbers) == len(FEATURES)
        assert len(row.seconds) == len(ACTIONS)
        assert min(row.seconds) > 0.0
    # A later state has less of the text before it.
    assert max(max(row.seconds) for row in others) < max(first.seconds)


def test_episodes_are_drawn_from_their_seed() -> None:
    assert drawn_episode(3) == drawn_episode(3)
    many = [drawn_episode(seed).setting for seed in range(40)]
    assert {setting.worker.drafts for setting in many} == {True, False}
    assert {setting.others > 0 for setting in many} == {True, False}
    links = [setting.link.profile for setting in many if setting.link is not None]
    assert {len(profile.states) for profile in links} == {1, 2, 3}
    for setting in many:
        for text in setting.recording.texts:
            assert text.tokens.index(0) == len(text.tokens) - 1, "only the last token ends a text"


def test_equal_seeds_give_equal_weights_that_devices_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(policy_training, "drawn_episode", quick)
    for name, value in (("_FIT_EVERY", 2), ("_FIRST", 2), ("_STEPS", 20)):
        monkeypatch.setattr(policy_training, name, value)
    for folder in ("one", "other"):
        command = ["policy", "train", "--out", str(tmp_path / folder), "--episodes", "6", "--seed", "7"]
        assert main(command) == 0
        assert "6 episodes; held out" in capsys.readouterr().out
    weights = (tmp_path / "one" / "rl.json").read_bytes()
    assert weights == (tmp_path / "other" / "rl.json").read_bytes()
    read_network(weights.decode(), "rl.json")


def test_no_episodes_and_a_folder_that_cannot_be_made_are_refused_before_anything_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["policy", "train", "--out", str(tmp_path), "--episodes", "0"]) == 2
    file = tmp_path / "file"
    file.write_text("")
    assert main(["policy", "train", "--out", str(file / "out"), "--episodes", "1"]) == 2
    assert "cannot be used: Not a directory" in capsys.readouterr().err


STREAMING = next(number for number, action in enumerate(ACTIONS) if action.name == "nobody")
DRAFTING = next(number for number, action in enumerate(ACTIONS) if action.name == "K 4, W 2")


def moving(seed: int) -> Episode:
    link = LinkPlan("4g-moving", built_in().get("4g-moving"), seed)
    return Episode(replace(SETTING, link=link, seed=seed), RECORDING.texts)


def played(seed: int, action: int) -> list[Step]:
    environment = PlanningEnvironment(moving)
    steps = [environment.reset(seed)]
    while not steps[-1].over:
        steps.append(environment.step(action))
        assert not steps[-1].cut
    return steps


@pytest.mark.parametrize("action", [STREAMING, DRAFTING])
def test_an_episode_is_all_of_its_texts_a_few_tokens_a_step(action: int) -> None:
    steps = played(3, action)
    assert all(known(step.seen) for step in steps)
    assert all(one.text <= other.text and one.at <= other.at for one, other in pairwise(steps))
    assert steps[-1].text == len(RECORDING.texts) - 1
    assert steps[-1].ended == steps[-1].at
    within = [b.seen.committed - a.seen.committed for a, b in pairwise(steps) if a.text == b.text]
    assert min(within[:-1]) >= MACRO


def test_equal_seeds_and_actions_give_equal_episodes_and_others_do_not() -> None:
    assert played(5, DRAFTING) == played(5, DRAFTING)
    assert played(5, DRAFTING) != played(6, DRAFTING)
    assert played(5, DRAFTING)[-1].at != played(5, STREAMING)[-1].at


def test_what_is_no_action_or_no_episode_is_refused() -> None:
    environment = PlanningEnvironment(moving)
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
