"""Guesses are as confident as the calibration that ships with a draft says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexspec_mq.drafting.model_drafter import ModelDrafter, proposer_of, read_calibration
from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.artifact import MARKER
from flexspec_mq.models.draft.confidence import KEY, USUAL, ConfidenceCalibration, features_of
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from tests.drafting.asking import ConstantModel, asked, tokens

CALIBRATION = ConfidenceCalibration((-1.0, 1.2, 0.1, 0.2, 0.1, -0.3, 0.0, 0.0, 0.0, 0.0, 0.3, 0.1, 0.0))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_guess_is_the_choice_with_its_probability(temperature: float) -> None:
    logits = np.random.default_rng(3).standard_normal(500).astype(np.float32) * 2
    params = SamplingParams(temperature, 0, 1.0, 5)
    guess = proposer_of(CALIBRATION)(logits, params, 9, 4)
    assert guess.token == choose(logits, params, 9)
    assert guess.confidence == CALIBRATION.probability(features_of(logits, params, 9, 4)[1])
    plain = proposer_of(None)(logits, params, 9, 4)
    assert plain.token == guess.token
    assert plain.confidence == USUAL.probability(features_of(logits, params, 9, 4)[1])


def test_a_draft_that_was_right_is_surer_of_the_next_token() -> None:
    model = ConstantModel([token % 7 * 0.3 for token in range(128)])
    drafter = ModelDrafter(model, max_context=64, proposer=proposer_of(CALIBRATION))

    def confidence(*context: int) -> float:
        (run,) = drafter.draft([asked(1, context)])
        assert run
        return run[0].confidence

    first = confidence(3, 4, 5)
    (right,) = tokens(drafter.draft([asked(1, (3, 4, 5))]))
    after_one = confidence(3, 4, 5, right)
    after_two = confidence(3, 4, 5, right, right)
    assert first < after_one < after_two
    assert confidence(3, 4, 5, right, right, right + 1) == first


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
