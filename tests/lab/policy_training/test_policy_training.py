"""Training of the policy `rl`: what actions come to is a function of the seed, and training learns what there is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.cli import main
from flexspec_mq.controller.rl import ACTIONS, FEATURES, read_network
from lab.policy_training import training
from lab.policy_training.branching import Row, branch
from lab.policy_training.episodes import drawn_setting
from lab.policy_training.learner import fit
from lab.simulator.answers import Setting
from lab.testbed.link.profiles import LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, random_recording

SETTING = Setting(recording=random_recording(texts=2, prompt=40, ends=False), times=TIMES)
SEED = 8
"""An episode in which actions part early enough."""


def quick(seed: int) -> Setting:
    return replace(SETTING, link=LinkPlan("4g-moving", built_in().get("4g-moving"), seed), seed=seed)


def rows(count: int, seed: int) -> list[Row]:
    """States of which one number tells the best action: the first one below 0, else the fifth."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((count, len(FEATURES)))
    seconds = 1.0 + rng.uniform(0.2, 0.6, (count, len(ACTIONS)))
    seconds[np.arange(count), np.where(numbers[:, 2] < 0, 0, 4)] = 1.0
    return [Row(*each, True) for each in zip(numbers.tolist(), seconds.tolist(), strict=True)]


def test_the_network_learns_which_action_is_best() -> None:
    other = rows(400, 2)
    assert training.excess(fit(rows(50, 1), 1, 1), other) > 0.2
    assert training.excess(fit(rows(2000, 1), 1, 300), other) < 0.03


def test_a_branch_is_what_its_action_takes() -> None:
    first, *others = found = branch(quick(SEED), SEED, lambda _: 1)
    assert first.branched
    assert not any(row.branched for row in others)
    # Batches end by confidence, so that some of the lengths come to the same.
    assert len({round(one, 9) for one in first.seconds}) > len(ACTIONS) / 4
    for row in found:
        assert len(row.numbers) == len(FEATURES)
        assert len(row.seconds) == len(ACTIONS)
        assert min(row.seconds) > 0.0
    # A later state has less of the text before it.
    assert max(max(row.seconds) for row in others) < max(first.seconds)


def test_equal_seeds_give_equal_rows_and_others_do_not() -> None:
    once, again, other = (branch(quick(link), SEED, lambda _: 1) for link in (SEED, SEED, SEED + 1))
    assert once == again != other
    assert once


def test_episodes_are_drawn_from_their_seed() -> None:
    assert drawn_setting(3) == drawn_setting(3)
    many = [drawn_setting(seed) for seed in range(40)]
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
    monkeypatch.setattr(training, "drawn_setting", quick)
    for name, value in (("_FIT_EVERY", 2), ("_STEPS", 20)):
        monkeypatch.setattr(training, name, value)
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
