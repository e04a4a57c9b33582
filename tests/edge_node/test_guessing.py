"""Guesses are as confident as the calibration that ships with a draft says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_node.drafter import ModelDrafter
from edge_node.drafts import Wanted
from edge_node.guessing import guess_of, read_calibration
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.draft.confidence import KEY, Calibration, features_of
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from tests.models.tiny_packed import packed

CALIBRATION = Calibration((-1.0, 1.2, 0.1, 0.2, 0.1, -0.3, 0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_guess_is_the_choice_with_its_probability(temperature: float) -> None:
    logits = np.random.default_rng(3).standard_normal(500).astype(np.float32) * 2
    params = SamplingParams(temperature, 0, 1.0, 5)
    guess = guess_of(CALIBRATION)(logits, params, 9)
    assert guess.token == choose(logits, params, 9)
    assert guess.confidence == CALIBRATION.probability(features_of(logits, params, 9)[1])
    plain = guess_of(None)(logits, params, 9)
    assert plain.token == guess.token
    likely = np.exp(logits.astype(np.float64))
    assert plain.confidence == pytest.approx(likely[plain.token] / likely.sum(), rel=1e-4)


def test_the_drafter_guesses_with_what_it_was_given() -> None:
    model = packed("grouped", torch.float32)
    params = SamplingParams(0.7, 0, 1.0, 5)
    wanted = [Wanted(1, (3, 4, 5), params)]
    (calibrated,) = ModelDrafter(model, max_context=64, guess=guess_of(CALIBRATION)).draft(wanted)
    (plain,) = ModelDrafter(model, max_context=64).draft(wanted)
    assert calibrated
    assert plain
    assert calibrated[0].token == plain[0].token
    assert calibrated[0].confidence != plain[0].confidence


def test_a_calibration_is_read_from_the_drafts_folder(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) is None
    marker = tmp_path / MARKER
    marker.write_text(json.dumps({"n": 6}))
    assert read_calibration(tmp_path) is None
    marker.write_text(json.dumps({"n": 6, KEY: CALIBRATION.to_json()}))
    assert read_calibration(tmp_path) == CALIBRATION


@pytest.mark.parametrize("text", ["{", '{"confidence": {"basis": 99}}', '{"confidence": 3}'])
def test_a_calibration_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(ModelError) as raised:
        read_calibration(tmp_path)
    assert raised.value.hint
