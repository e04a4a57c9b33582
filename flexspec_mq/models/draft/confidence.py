"""How likely the target takes a drafted token: a logistic regression on what the draft knows when it chooses.

Draft and target draw the same noise, so the draft's token survives unless the target's logits differ from the
draft's by more than the *margin* of the choice: the distance, in logits, between the best and the second best
perturbed score, the first feature. How far the two models' logits lie apart depends on how sure the draft
is, which the log-probability of the token and that of the likeliest one tell (they differ where the noise chose
another), and the temperature says how much the other tokens' noise counts. And a draft that has been right for some
tokens is likelier to be right again than one that just failed, whatever its logits say: the *accepted run*.

The basis is smooth and small (thirteen numbers): what matters of a margin or an accepted run is its order of
magnitude, hence the logarithms; the square lets the curve level off; the products with the temperature let one set of
weights serve all of them.

numpy only: a device needs no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.sampling.choose import choose_with_margin

if TYPE_CHECKING:
    from schemas.messages import Sampling

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]

KEY = "confidence"
"""Where `flexspec_draft.json` has a calibration."""
COLUMNS = ("margin", "logp", "top_logp", "temperature", "streak")
"""Features of one choice: margin in logits, natural logarithms of the probabilities that the draft gives at
temperature 1 to the token and to its likeliest one, the temperature, and how many of the draft's choices before it
were the target's, one after another."""
BASIS = 2
"""Version of what the weights belong to."""

_WEIGHTS = 13
_MOST_RUN = 63.0
_MOST_MARGIN, _LEAST_LOGP = 50.0, -20.0


def features_of(
    logits: Logits,
    params: Sampling,
    position: int,
    accepted_run: int,
    ids: npt.NDArray[np.int64] | None = None,
) -> tuple[int, Floats]:
    """Choose a token as `choose` does, and say what its confidence depends on.

    Args:
        logits: logits of the draft, float32 of shape [vocabulary].
        params: the session's.
        position: index of the token in prompt + text.
        accepted_run: see `COLUMNS`.
        ids: as for `choose_with_margin`.

    Returns:
        The token's place in the logits, and its features in the order of `COLUMNS`, float64 of shape [5].
    """
    token, margin = choose_with_margin(logits, params, position, ids)
    top = float(logits.max())
    mass = math.log(float(np.exp(logits - np.float32(top)).sum()))
    features = (margin, float(logits[token]) - top - mass, -mass, params.temperature, accepted_run)
    return token, np.array(features, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class ConfidenceCalibration:
    """From features to a probability.

    Attributes:
        weights: weight of each function of the basis, the constant first.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse weights of another basis.

        Raises:
            UsageError: their number is wrong, or one is not finite.
        """
        if len(self.weights) != _WEIGHTS or not all(map(math.isfinite, self.weights)):
            raise UsageError(f"a calibration has {_WEIGHTS} finite weights, this has {self.weights}")

    def probability(self, features: Floats) -> float:
        """Probability that the target takes the token; features of shape [5]."""
        return float(self.probabilities(features[None])[0])

    def probabilities(self, features: Floats) -> Floats:
        """The same for many; features of shape [n, 5], probabilities of shape [n]."""
        return sigmoid(basis_of(features) @ np.array(self.weights))

    def to_json(self) -> dict[str, Any]:
        """A plain JSON object."""
        return {"basis": BASIS, "weights": list(self.weights)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ConfidenceCalibration:
        """Read what `to_json` made.

        Raises:
            ModelError: it is no calibration, or one of another basis.
        """
        try:
            basis, weights = stored["basis"], tuple(float(weight) for weight in stored["weights"])
            if basis != BASIS:
                raise ValueError(f"basis {basis} is not {BASIS}")  # noqa: TRY301  all that is wrong is told alike
            return cls(weights)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise ModelError(
                f"the draft's confidence cannot be read: {error}", hint="export the draft again"
            ) from error


USUAL = ConfidenceCalibration(
    (0.784, 0.221, 0.691, 0.306, 0.662, -0.917, 0.604, -0.151, -0.4, 0.038, 0.046, 0.146, 0.018)
)
"""For a draft without a calibration of its own: that of the draft that ships (82,269 choices), rounded. Above
temperature 0 the draft's own probability of a token that the noise chose says little: the target's is the same."""


def basis_of(features: Floats) -> Floats:
    """The functions that a calibration weighs: from features [n, 5] to float64 [n, 13]."""
    margin, logp, top, temperature, accepted_run = features.T
    size = np.log1p(np.minimum(margin, _MOST_MARGIN))
    logp, top = np.maximum(logp, _LEAST_LOGP), np.maximum(top, _LEAST_LOGP)
    constant = np.ones_like(size)
    lasted = np.log1p(np.minimum(accepted_run, _MOST_RUN))
    products = (size * temperature, logp * temperature, top * temperature, size * logp)
    by_run = (lasted, lasted * size, lasted * logp)
    return np.stack([constant, size, size * size, logp, top, temperature, *products, *by_run], axis=1)


def sigmoid(scores: Floats) -> Floats:
    """Probabilities of log-odds, of the same shape."""
    return np.exp(-np.logaddexp(0.0, -scores))
