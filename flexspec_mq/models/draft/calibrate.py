"""A draft's calibrated confidence: fitted to replayed answers, judged on answers that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.draft.confidence import COLUMNS, ConfidenceCalibration, Floats, basis_of, sigmoid

FOLDS = 2
BINS = 10
_ROUNDS = 50
_RIDGE, _PRIOR_RIDGE = 1.0, 100.0
_TOO_FEW, _MORE = "too few held-out answers to calibrate on", "give text of more prompts"


@dataclass(frozen=True, slots=True)
class Coupled:
    """Answer of the target, replayed by the draft with common noise.

    Attributes:
        row: Number of the answer.
        temperature: temperature of both models' choices.
        features: features of the draft's choices, see ``confidence.COLUMNS``, float64 of shape ``(positions, 5)``.
        accepted: Whether the target chose the same token, shape ``(positions,)``.
    """

    row: int
    temperature: float
    features: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How well confidences tell what the target takes.

    Attributes:
        positions: Choices that were judged.
        error: Expected calibration error: mean distance between confidence and accepted share over the bins,
            weighted by their counts.
        by_temperature: The same for each temperature alone.
    """

    positions: int
    error: float
    by_temperature: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """Figures worth printing and keeping."""
        return {
            "positions": self.positions,
            "calibration_error": round(self.error, 4),
            "by_temperature": {t: round(error, 4) for t, error in self.by_temperature.items()},
        }


def calibrate(
    answers: Sequence[Coupled], prior: ConfidenceCalibration | None = None
) -> tuple[ConfidenceCalibration, Reliability]:
    """Fit a calibration to all answers, and say how reliable one is that has not seen the answers it judges.

    For that, answers are dealt out by their row, and each part is judged by a calibration of the others. For `prior`,
    see `fit`.

    Raises:
        ModelError: There are fewer answers than parts.
    """
    if not answers:
        raise ModelError(_TOO_FEW, hint=_MORE)
    parts = np.concatenate([np.full(len(answer.accepted), answer.row % FOLDS) for answer in answers])
    if set(parts.tolist()) != set(range(FOLDS)):
        raise ModelError(_TOO_FEW, hint=_MORE)
    features = np.concatenate([answer.features for answer in answers])
    accepted = np.concatenate([answer.accepted for answer in answers])
    judged = np.empty(len(accepted))
    for part in range(FOLDS):
        mine = parts == part
        judged[mine] = fit(features[~mine], accepted[~mine], prior).probabilities(features[mine])
    temperature = np.concatenate([np.full(len(answer.accepted), answer.temperature) for answer in answers])
    by_temperature = {
        f"{t:g}": calibration_error(judged[temperature == t], accepted[temperature == t])
        for t in np.unique(temperature)
    }
    reliable = Reliability(
        len(accepted),
        calibration_error(judged, accepted),
        by_temperature,
    )
    return fit(features, accepted, prior), reliable


def calibration_error(judged: npt.NDArray[np.float64], accepted: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error over bins of equal width, 0 to 1."""
    bins = reliability(judged, accepted)
    return sum(count * abs(mean - share) for count, mean, share in bins) / max(1, len(accepted))


def fit(
    features: Floats, accepted: npt.NDArray[np.bool_], prior: ConfidenceCalibration | None = None
) -> ConfidenceCalibration:
    """Fit a calibration by Newton's method.

    Args:
        features: float64 of shape [n, 5], see `confidence.COLUMNS`; of all temperatures that will be served.
        accepted: whether the target took the token, shape [n].
        prior: calibration of another draft, from which the weights are drawn away only as far as the outcomes want it:
            what a dozen answers are enough for.

    Raises:
        UsageError: there is nothing to fit, or the shapes do not fit together.
    """
    if features.ndim != 2 or features.shape[1] != len(COLUMNS) or accepted.shape != features.shape[:1]:
        raise UsageError(f"features of shape {features.shape} do not fit {accepted.shape} outcomes")
    if not len(features):
        raise UsageError("there are no outcomes to calibrate on")
    basis = basis_of(features)
    mean, scale = basis.mean(0), basis.std(0)
    mean[0] = 0.0
    scale[scale < 1e-9] = 1.0
    scaled = (basis - mean) / scale
    # Of functions scaled to a deviation of 1; as much as so many observations. The level is the outcomes' own.
    penalty = np.full(len(scale), _RIDGE if prior is None else _PRIOR_RIDGE)
    penalty[0] = 1e-6
    centre = np.zeros(len(scale))
    if prior is not None:
        centre = np.array(prior.weights) * scale
        centre[0] += mean @ np.array(prior.weights)
    weights = newton(scaled, accepted.astype(np.float64), penalty, centre) / scale
    weights[0] -= float(mean @ weights)
    return ConfidenceCalibration(tuple(map(float, weights)))


def reliability(probabilities: Floats, accepted: npt.NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """How well probabilities are calibrated: per bin of equal width, count, mean probability, accepted share."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        (int(mine.sum()), float(probabilities[mine].mean()), float(accepted[mine].mean()))
        for mine in (place == number for number in range(BINS))
        if mine.any()
    ]


def newton(basis: Floats, outcome: Floats, penalty: Floats, centre: Floats) -> Floats:
    """Weights of a logistic regression with the least penalised loss, by Newton's method with halved steps.

    Args:
        basis: float64 of shape [n, functions].
        outcome: 0 or 1, float64 of shape [n].
        penalty: strength of the penalty on the squared distance of each weight to the centre's.
        centre: weights without any penalty.
    """
    weights = centre
    loss = _loss(basis, outcome, weights, penalty, centre)
    for _ in range(_ROUNDS):
        likely = sigmoid(basis @ weights)
        slope = basis.T @ (likely - outcome) + penalty * (weights - centre)
        curve = (basis * (likely * (1 - likely))[:, None]).T @ basis + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        while (reached := _loss(basis, outcome, weights - step, penalty, centre)) > loss and np.abs(
            step
        ).max() > 1e-12:
            step /= 2
        weights = weights - step
        if loss - reached < 1e-9 * max(1.0, loss):
            break
        loss = reached
    return weights


def _loss(basis: Floats, outcome: Floats, weights: Floats, penalty: Floats, centre: Floats) -> float:
    scores = basis @ weights
    return float(
        (np.logaddexp(0.0, scores) - outcome * scores).sum() + 0.5 * (penalty * (weights - centre) ** 2).sum()
    )
