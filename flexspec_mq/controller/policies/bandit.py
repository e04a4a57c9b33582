"""Which plan is fastest, by trying: a bandit over plans and over the closed form (as TapOut, arXiv 2511.02017)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flexspec_mq.controller.arms import Arms
from flexspec_mq.controller.choices import NOBODY, Choice
from flexspec_mq.controller.explain import Alternative
from flexspec_mq.controller.policies.threshold import ThresholdPolicy
from flexspec_mq.controller.stopping import ending_early
from flexspec_mq.controller.who_drafts import WhoDrafts

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from flexspec_mq.controller.plan import Observation, Plan

_NAME = "bandit"
_RULE = "threshold"
"""The arm that leaves the plan to the closed form; it is the first to be tried."""
_PLANS = (
    NOBODY,
    Choice(4, 2, True),
    Choice(2, 2, True),
    Choice(8, 2, True),
    Choice(4, 1, False),
    Choice(8, 1, False),
)
_PULL = 6
"""Verdicts with tokens that one pull lasts; the first one is of the plan before."""


@dataclass(slots=True)
class BanditPolicy:
    """Tries some plans, and takes most often the one that gave the most tokens per second lately, on this node.

    Attributes:
        base: everything else of the plan. Its draft length 0 leaves drafting to the worker; its run-ahead 0 allows
            none.
    """

    base: Plan
    _rule: ThresholdPolicy = field(init=False)
    _who: WhoDrafts = field(default_factory=WhoDrafts)
    _arms: Arms = field(default_factory=Arms)
    _arm: object = _RULE
    _commits: int = 0
    _before: int = 0
    _began: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        """The closed form has the same base."""
        self._rule = ThresholdPolicy(self.base)

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """See `Learner`."""
        known = memory.setdefault(_NAME, self._arms)
        if isinstance(known, Arms):
            self._arms = known
        self._arm = self._arms.best(self._able())
        self._rule.recall(memory)

    def plan(self, seen: Observation) -> Plan:
        """The plan for the next batch."""
        self._who.saw(seen)
        if seen.at is not None and seen.committed > self._before:
            self._before = seen.committed
            self._count(seen.committed, seen.at)
        if not isinstance(self._arm, Choice):
            return self._rule.plan(seen)
        self._rule.stands_by(seen)
        made = ending_early(self._arm, self.base, seen)
        warm = self._who.warm(made, seen)
        if self._arm.ahead:
            return self._who.running_ahead(made)
        if warm or not self.base.ahead:
            return made
        # Nobody waits for a device whose draft has a text to read first.
        return self._who.running_ahead(ending_early(replace(self._arm, ahead=True), self.base, seen))

    def stands_by(self, seen: Observation) -> None:
        """See `StandsBy`: the pull begins anew."""
        self._began, self._commits = None, 0
        self._rule.stands_by(seen)

    def alternatives(self) -> list[Alternative]:
        """See `Explains`: the arms."""
        return [
            Alternative(
                arm.name if isinstance(arm, Choice) else f"as {_RULE} plans",
                1 / rate if (rate := self._arms.rate(arm)) else None,
                arm == self._arm,
                delegates=not isinstance(arm, Choice),
            )
            for arm in self._able()
        ]

    def _able(self) -> tuple[object, ...]:
        base = self.base
        if not base.draft_length:
            return (_RULE,)
        return (_RULE, *(choice for choice in _PLANS if base.ahead or not choice.ahead))

    def _count(self, committed: int, at: float) -> None:
        """Tokens have come; a pull ends, and another begins."""
        self._commits += 1
        if self._began is None:
            self._began, self._commits = (committed, at), 0
        elif self._commits >= _PULL:
            tokens, seconds = committed - self._began[0], at - self._began[1]
            if seconds > 0.0:
                self._arms.pulled(self._arm, tokens, seconds)
            chosen = self._arms.best(self._able())
            # What comes next is still of the arm before, where that is another.
            self._began = (committed, at) if chosen == self._arm else None
            self._arm, self._commits = chosen, 0
