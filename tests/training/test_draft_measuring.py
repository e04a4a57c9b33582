"""Measuring a draft: rounds, survival, calibration."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import ModelError

pytest.importorskip("transformers")

import torch

from flexspec_mq.models.draft.calibrate import Coupled, calibrate, calibration_error, fit
from flexspec_mq.models.draft.confidence import USUAL, ConfidenceCalibration, features_of
from flexspec_mq.models.draft.delta import DeltaMeta
from flexspec_mq.sampling.choose import choose
from schemas.messages import Sampling
from tests.training.drafts import some_text, tiny_base
from training.draft.architecture import build_draft, lm_head_weight
from training.draft.evaluate import TEMPERATURES, count_rounds, coupled, fresh_rows, survival
from training.draft.measuring import calibrated, read_marker

N = 2
Answer = st.lists(st.booleans(), max_size=40).map(lambda marks: np.array(marks, dtype=np.bool_))


@given(accepted=Answer, k=st.integers(1, 9))
def test_rounds_are_those_of_counting_token_by_token(accepted: np.ndarray, k: int) -> None:
    """As the protocol commits: a run of up to `k` accepted tokens, and one token more."""
    rounds = position = 0
    while position < len(accepted):
        run = 0
        while run < k and position + run < len(accepted) and accepted[position + run]:
            run += 1
        position += run + 1
        rounds += 1
    assert count_rounds(accepted, k) == rounds


def test_survival_counts_runs_from_every_position() -> None:
    answers = [np.array([True, True, False, True]), np.array([True])]
    assert survival(answers, 3) == [4 / 5, 1 / 3, 0.0]
    assert survival([np.array([True])], 2) == [1.0, 0.0]


def test_replays_throw_the_dice_of_the_product() -> None:
    base, text = tiny_base(), some_text(3)
    draft = build_draft(base, N, (3,))
    found = list(coupled(draft, N, fresh_rows(base, N, text), TEMPERATURES, first_row=5))
    assert [(answer.row, answer.temperature) for answer in found] == [
        (row, t) for row in (5, 6, 7) for t in TEMPERATURES
    ]
    for answer in found:
        row, first = answer.row - 5, int(text.prompt_len[answer.row - 5])
        ids = torch.from_numpy(text.row(row))[None]
        params = Sampling(answer.temperature, seed=answer.row)
        with torch.no_grad():
            mine, theirs = (
                model(input_ids=ids).logits[0, first - 1 : -1].float().numpy() for model in (draft, base)
            )
        assert len(answer.accepted) == len(mine) == text.answer_len[row]
        same = [
            choose(z, params, first + i) == choose(t, params, first + i)
            for i, (z, t) in enumerate(zip(mine, theirs, strict=True))
        ]
        # In bfloat16 the model's own attention rounds otherwise than the replay, so a near-tie may flip.
        assert np.mean(np.array(same) != answer.accepted) <= 0.1
        streak = 0
        for told, accepted in zip(answer.features[:, -1], answer.accepted, strict=True):
            assert told == streak
            streak = streak + 1 if accepted else 0
        token, expected = features_of(mine[0], params, first, 0)
        assert 0 <= token < lm_head_weight(draft).shape[0]
        np.testing.assert_allclose(answer.features[0], expected, atol=0.2)


def some_answers(rows: int, seed: int = 0) -> list[Coupled]:
    """Answers whose acceptance truly depends on the margin."""
    rng = np.random.default_rng(seed)
    answers = []
    for row in range(rows):
        margin = rng.exponential(2.0, 400)
        known = np.stack([margin, *(np.full(400, value) for value in (-1.0, -1.0, 0.7, 0.0))], axis=1)
        answers.append(Coupled(row, 0.7, known, rng.random(400) < 1 - np.exp(-0.3 - margin)))
    return answers


def test_a_calibration_holds_on_answers_that_it_has_not_seen() -> None:
    answers = some_answers(20)
    calibration, found = calibrate(answers)
    assert found.positions == 8000
    assert found.error < 0.03
    assert found.by_temperature == {"0.7": pytest.approx(found.error)}
    fresh = some_answers(20, seed=1)
    judged = calibration.probabilities(np.concatenate([answer.features for answer in fresh]))
    accepted = np.concatenate([answer.accepted for answer in fresh])
    assert calibration_error(judged, accepted) < 0.03
    assert calibration_error(np.full(8000, 0.99), accepted) > 0.2
    meta = calibrated(DeltaMeta("x", 1, (2,), {"step": 3}), calibration, found)
    assert meta.confidence is not None
    assert ConfidenceCalibration.from_json(meta.confidence) == calibration
    assert meta.training == {"step": 3, "calibration": found.figures()}


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_answers_are_not_calibrated_on(rows: int) -> None:
    with pytest.raises(ModelError, match="too few"):
        calibrate(some_answers(rows))


def test_few_answers_leave_a_calibration_near_its_prior_and_many_do_not() -> None:
    answers = some_answers(20)
    features = np.concatenate([answer.features for answer in answers])
    accepted = np.concatenate([answer.accepted for answer in answers])
    near, far = fit(features[:3], accepted[:3], USUAL), fit(features, accepted, USUAL)
    assert np.abs(near.probabilities(features) - USUAL.probabilities(features)).max() < 0.1
    assert calibration_error(far.probabilities(features), accepted) < 0.03


def test_what_is_no_exported_draft_says_nothing_of_its_delta(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not an exported draft"):
        read_marker(tmp_path)
