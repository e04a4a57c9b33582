"""Any policy's plans, at the quality of service that costs least."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexspec_mq.controller import qos
from flexspec_mq.controller.explain import Explains, Limited
from flexspec_mq.controller.plan import HearsEnd, Learner, Observation, Plan, Policy

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

    from flexspec_mq.controller.explain import Alternative, LimitReport


@dataclass(slots=True)
class CheapestQos:
    """Begins at the level of the inner plans, and goes on with what acknowledgements and broken connections cost.

    Attributes:
        inner: makes the plans.
    """

    inner: Policy
    _level: int | None = None

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """See `Learner`."""
        if isinstance(self.inner, Learner):
            self.inner.recall(memory)

    def plan(self, seen: Observation) -> Plan:
        """The inner plan at the chosen level, but for what opens a text."""
        plan = self.inner.plan(seen)
        self._level = qos.best(seen, plan.qos if self._level is None else self._level)
        return plan if plan.qos == self._level else replace(plan, qos=self._level, open_qos=plan.qos)

    def ended(self, seen: Observation) -> None:
        """See `HearsEnd`."""
        if isinstance(self.inner, HearsEnd):
            self.inner.ended(seen)

    def alternatives(self) -> Sequence[Alternative]:
        """See `Explains`: the inner policy's."""
        return self.inner.alternatives() if isinstance(self.inner, Explains) else ()

    def limits(self) -> Sequence[LimitReport]:
        """See `Limited`: the inner policy's."""
        return self.inner.limits() if isinstance(self.inner, Limited) else ()
