"""The closed form's rule over a prediction that was corrected by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flexspec_mq.controller.actions import ACTIONS
from flexspec_mq.controller.choices import NOBODY, Choice, by_worker, forecast, pace_of, reading
from flexspec_mq.controller.correction import Correction, factor, shipped_correction, terms
from flexspec_mq.controller.features import features, known
from flexspec_mq.controller.forecast import Pace
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.threshold import DRAFTED, ThresholdPolicy

_BETTER = 0.03
"""Leaving the device and the worker to it both, or not any more, has to be better by so much."""
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
        if not known(seen):
            return None
        self._weights = self.correction.weights(features(seen))
        both = self._alone and self._chosen is not NOBODY
        # A class with slots is made anew by its decorator, so `super()` alone would look for the one before.
        best = super(PredictorPolicy, self)._choose(seen)
        pace = pace_of(seen, self._wait)
        if best is None or pace is None or not (self.base.ahead and self.base.worker_draft):
            return best
        if self._alone:
            worker = by_worker(seen) + reading(seen)
            cost = worker * factor(self._weights, terms(best, worker=True))
        else:
            cost = self._cost(best, pace)
        most = self.most if seen.granted is None else min(self.most, seen.granted)
        costs = {
            choice: self._weighed(choice, pace, worker=True) for choice in _BOTH if choice.length <= most
        }
        found = min(costs, key=costs.__getitem__, default=None)
        if found is not None and costs[found] < cost * (1 + _BETTER if both else 1 - _BETTER):
            self._alone, best = True, found
            self._chosen = found
        return best

    def _cost(self, choice: Choice, pace: Pace) -> float:
        return self._weighed(choice, pace)

    def _weighed(self, choice: Choice, pace: Pace, *, worker: bool = False) -> float:
        found = forecast(choice, pace)
        factored = found.seconds * factor(self._weights, terms(choice, worker=worker))
        return factored * (1 + DRAFTED * found.drafted)
