"""Plans from one of a few actions, held for a few tokens: what learned policies and their training have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from flexspec_mq.controller.actions import ACTIONS, MACRO, WAITING
from flexspec_mq.controller.choices import forward_of, reading
from flexspec_mq.controller.features import known
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.stopping import ending_early
from flexspec_mq.controller.who_drafts import WhoDrafts

_ALL = tuple(range(len(ACTIONS)))
_CHEAP = 0.1
"""A worker is asked whether it drafts where its draft reads the prompt in less than such a share of the time: so it
was when actions were learned."""


@dataclass(slots=True)
class ActingPolicy:
    """Leaves the choice to `act`, within what the user allows.

    Attributes:
        base: everything else of the plan, and the plan while nothing is known. Its draft length 0 leaves drafting to
            the worker; its run-ahead 0 allows none.
        hold: tokens for which an action holds, at least.
    """

    base: Plan
    hold: int = MACRO
    _who: WhoDrafts = field(default_factory=WhoDrafts)
    _action: int | None = None
    _since: int = 0

    def act(self, seen: Observation, able: Sequence[int]) -> int:
        """Choose anew.

        Args:
            seen: `known`.
            able: numbers of actions that are allowed, in their order.
        """
        raise NotImplementedError

    def plan(self, seen: Observation) -> Plan:
        """The plan for the next batch."""
        base, who = self.base, self._who
        who.saw(seen)
        if not base.draft_length or not known(seen):
            return who.running_ahead(base) if base.ahead else base
        if self._action is None or seen.committed >= self._since + self.hold:
            self._action = self.act(seen, _ALL if base.ahead else WAITING)
            self._since = seen.committed
        action = ACTIONS[self._action]
        made = ending_early(action.choice, base, seen)
        may = base.ahead > 0 and base.worker_draft > 0 and not who.alone
        asks = may and who.asks and reading(seen) <= _CHEAP * forward_of(seen)
        if asks:
            made = ending_early(replace(action.choice, ahead=True), base, seen)
        if not (action.worker or asks):
            made = replace(made, worker_draft=0)
        return who.running_ahead(made) if made.ahead else made
