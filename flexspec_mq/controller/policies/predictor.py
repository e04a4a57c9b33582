"""The closed form's rule over a prediction that was corrected by what was learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from flexspec_mq.controller.calibration import Calibration
from flexspec_mq.controller.choices import Choice, forecast
from flexspec_mq.controller.correction import Correction, factor, shipped_correction, terms
from flexspec_mq.controller.features import features, known
from flexspec_mq.controller.forecast import Pace
from flexspec_mq.controller.plan import Observation
from flexspec_mq.controller.policies.threshold import ThresholdPolicy


@dataclass(slots=True)
class PredictorPolicy(ThresholdPolicy):
    """As `ThresholdPolicy`, with seconds that a small learned predictor corrects, and then what the node sees.

    It knows what a worker's drafts add to those of the device, which the closed form leaves out. Where the worker was
    not seen to draft the closed form is the better one, and is left as it is.

    Attributes:
        correction: of the seconds.
    """

    NAME: ClassVar[str] = "predictor"

    correction: Correction = field(default_factory=shipped_correction)
    _calibration: Calibration = field(default_factory=lambda: Calibration(before=0.0))
    _weights: Sequence[float] = ()
    _both: bool = False

    def _choose(self, seen: Observation) -> None:
        if known(seen):
            drafts = self.base.worker_draft > 0 and seen.own_tokens is not None
            self._weights = self.correction.weights(features(seen)) if drafts else ()
            self._both = self.base.worker_draft > 0
        # A class with slots is made anew by its decorator, so `super()` alone would look for the one before.
        super(PredictorPolicy, self)._choose(seen)

    def _expects(self, choice: Choice, pace: Pace) -> float:
        seconds = forecast(choice, pace).seconds
        if not self._weights:
            return seconds
        worker = self._both and choice.ahead and choice.length > 0
        return seconds * factor(self._weights, terms(choice, worker=worker))
