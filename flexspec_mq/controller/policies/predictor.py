"""The closed form's rule over a prediction that was corrected by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flexspec_mq.controller.actions import ACTIONS
from flexspec_mq.controller.choices import NOBODY, Choice, forecast, pace_of
from flexspec_mq.controller.correction import Correction, factor, shipped_correction, terms
from flexspec_mq.controller.features import features
from flexspec_mq.controller.forecast import Pace
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.threshold import BETTER, ThresholdPolicy, cost_of

_BOTH = tuple(action.choice for action in ACTIONS if action.worker and action.choice.length)
"""Drafts of the device behind which the worker may draft as well; the closed form alone does not consider them."""


@dataclass(slots=True)
class PredictorPolicy(ThresholdPolicy):
    """As `ThresholdPolicy`, with seconds that a small learned predictor corrects.

    Attributes:
        correction: of the seconds.
    """

    correction: Correction = field(default_factory=shipped_correction)
    _weights: Sequence[float] = ()

    def _choose(self, seen: Observation) -> Choice | None:
        both = self._alone and self._chosen is not NOBODY
        # A class with slots is made anew by its decorator, so `super()` alone would look for the one before.
        best = super(PredictorPolicy, self)._choose(seen)
        pace = pace_of(seen)
        if best is None or pace is None or not (self.base.ahead and self.base.worker_draft):
            return best
        most = self.most if seen.granted is None else min(self.most, seen.granted)
        costs = {
            choice: cost_of(forecast(choice, pace)) * factor(self._weights, terms(choice, worker=True))
            for choice in _BOTH
            if choice.length <= most
        }
        found = min(costs, key=costs.__getitem__, default=None)
        if found is not None and costs[found] < self._cost * (1 + BETTER if both else 1 - BETTER):
            self._alone, best = True, found
            self._chosen = found
        return best

    def _costs(self, seen: Observation, able: Sequence[Choice], pace: Pace) -> dict[Choice, float]:
        self._weights = self.correction.weights(features(seen))
        return {
            choice: cost_of(forecast(choice, pace)) * factor(self._weights, terms(choice)) for choice in able
        }

    def _left_to_worker(self, seen: Observation) -> float:
        found = super(PredictorPolicy, self)._left_to_worker(seen)
        return found * factor(self._weights, terms(NOBODY, worker=True))
