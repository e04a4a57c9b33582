"""The calibrated confidence: what it is fitted from, that it fits, and that it survives being stored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.draft.confidence import COLUMNS, ConfidenceCalibration, Floats, features_of
from flexspec_mq.sampling.choose import choose
from flexspec_mq.sampling.params import SamplingParams
from training.draft.calibrate import fit, reliability
from training.draft.evaluate import samples

SEEDS = st.integers(0, 2**32)
TRUE = ConfidenceCalibration((-2.0, 1.5, 0.1, 0.3, -0.1, 0.2, -0.4, 0.1, 0.0, 0.05, 0.4, -0.1, 0.05))


def drawn(count: int, seed: int) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Features as drafts have them, and outcomes of a known calibration."""
    rng = np.random.default_rng(seed)
    top = -rng.exponential(1.0, count)
    temperature = rng.choice([0.0, 0.7, 1.0], count)
    logp = top - (temperature > 0) * rng.exponential(0.5, count)
    streak = rng.geometric(0.3, count) - 1.0
    features = np.stack([rng.exponential(3.0, count), logp, top, temperature, streak], axis=1)
    return features, rng.random(count) < TRUE.probabilities(features)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.4, 1.0, 3.0]), st.sampled_from([1.0, 0.9]), st.integers(2, 300))
def test_features_are_those_of_the_token_that_is_chosen(
    seed: int, temperature: float, top_p: float, size: int
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)
    params = SamplingParams(temperature, 0, top_p, seed)
    token, features = features_of(logits, params, 5, 3)
    margin, logp, top_logp, told, streak = (float(features[COLUMNS.index(name)]) for name in COLUMNS)
    likely = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    assert token == choose(logits, params, 5)
    assert math.isclose(logp, math.log(likely[token]), abs_tol=1e-4)
    assert math.isclose(top_logp, math.log(likely.max()), abs_tol=1e-4)
    assert margin >= 0
    assert told == temperature
    assert streak == 3


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.7, 1.5]))
def test_a_target_within_the_margin_takes_the_token(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    draft = (rng.standard_normal((6, 200)) * 3).astype(np.float32)
    params = SamplingParams(temperature, 0, 1.0, seed)
    margins = np.array([features_of(row, params, 3 + place, 0)[1][0] for place, row in enumerate(draft)])
    # No two logits differ by more than the margin from what they were, in relation to each other.
    moved = draft + (rng.uniform(-0.49, 0.49, draft.shape) * margins[:, None]).astype(np.float32)
    features, accepted = samples(draft, moved, params, 3)
    assert accepted.all()
    assert features[:, -1].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.array_equal(features[:, 0], margins)
    # And what is pushed past it is not taken.
    for place, row in enumerate(draft):
        moved[place] = row
        moved[place, choose(row, params, 3 + place)] -= np.float32(1.01 * margins[place] + 1e-3)
    assert not samples(draft, moved, params, 3)[1].any()


def test_a_fit_finds_what_the_outcomes_were_drawn_from() -> None:
    features, accepted = drawn(60_000, 1)
    found = fit(features, accepted)
    unseen, _ = drawn(5_000, 2)
    assert np.abs(found.probabilities(unseen) - TRUE.probabilities(unseen)).max() < 0.1
    assert np.abs(found.probabilities(unseen) - TRUE.probabilities(unseen)).mean() < 0.01
    for count, said, was in reliability(found.probabilities(features), accepted):
        assert abs(said - was) < 5 * math.sqrt(0.25 / count)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40), SEEDS)
def test_any_outcomes_give_probabilities(outcomes: list[bool], seed: int) -> None:
    features, _ = drawn(len(outcomes), seed)
    features[0, 0] = math.inf  # nothing else could be chosen
    found = fit(features, np.array(outcomes))
    said = found.probabilities(features)
    assert ((said >= 0) & (said <= 1)).all()
    # The constant is not penalised, so the mean is that of the outcomes.
    assert abs(float(said.mean()) - float(np.mean(outcomes))) < 0.02


def test_a_calibration_survives_json() -> None:
    again = ConfidenceCalibration.from_json(json.loads(json.dumps(TRUE.to_json())))
    assert again == TRUE
    features, _ = drawn(3, 4)
    assert again.probability(features[1]) == pytest.approx(TRUE.probabilities(features)[1])


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"basis": 3, "weights": [0.0] * 13},
        {"basis": 2, "weights": [0.0] * 10},
        {"basis": 1, "weights": [1.0] * 10},
        {"basis": 2, "weights": ["x"] * 13},
    ],
)
def test_what_is_no_calibration_is_refused(found: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="confidence"):
        ConfidenceCalibration.from_json(found)


def test_shapes_that_do_not_fit_are_refused() -> None:
    features, accepted = drawn(4, 1)
    for wrong in ((features[:, :3], accepted), (features, accepted[:2]), (features[:0], accepted[:0])):
        with pytest.raises(UsageError):
            fit(*wrong)
