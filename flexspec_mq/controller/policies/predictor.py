"""The closed form's rule over a prediction that was corrected by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flexspec_mq.controller.choices import NOBODY, Choice, forecast
from flexspec_mq.controller.correction import Correction, factor, shipped_correction, terms
from flexspec_mq.controller.features import features
from flexspec_mq.controller.forecast import Pace
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.threshold import ThresholdPolicy, cost_of


@dataclass(slots=True)
class PredictorPolicy(ThresholdPolicy):
    """As `ThresholdPolicy`, with seconds that a small learned predictor corrects.

    Attributes:
        correction: of the seconds.
    """

    correction: Correction = field(default_factory=shipped_correction)

    def _costs(self, seen: Observation, able: Sequence[Choice], pace: Pace) -> dict[Choice, float]:
        weights = self.correction.weights(features(seen))
        return {
            choice: cost_of(forecast(choice, pace)) * factor(weights, terms(choice)) for choice in able
        }

    def _by_worker(self, seen: Observation) -> float:
        weights = self.correction.weights(features(seen))
        # A class with slots is made anew by its decorator, so `super()` alone would look for the one before.
        found = super(PredictorPolicy, self)._by_worker(seen)
        return found * factor(weights, terms(NOBODY, worker=True))
