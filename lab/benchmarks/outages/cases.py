"""The outages that are met, and the link that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from flexspec_mq.errors import UsageError
from lab.testbed.link.profiles import LinkPlan, Outage, built_in

WITHIN, AFTER = "within", "after"
KILLED = "broker "
"""Before the kind of a case in which the broker is killed."""
BEGINS_S = {WITHIN: 0.3, AFTER: 3.0}
"""Seconds from where the link is set to, to where the outage begins."""
_APART = 1000.0
"""Seconds of the channel from one case to the next."""


@dataclass(frozen=True, slots=True)
class Case:
    """One outage of the link.

    Attributes:
        kind: `WITHIN` or `AFTER`.
        length: of it, in seconds.
        start: second of the channel to which the link is set for it.
    """

    kind: str
    length: float
    start: float

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} {self.length:g} s"

    @property
    def outage(self) -> Outage:
        """Where it lies."""
        starts = self.start + BEGINS_S[self.kind]
        return Outage(starts, starts + self.length)


def cases_of(lengths: Sequence[float]) -> list[Case]:
    """Each length, within an answer and after one.

    Raises:
        UsageError: a length that is none, or one that is there twice.
    """
    if not all(0.0 < length < _APART / 2 for length in lengths) or len(set(lengths)) < len(lengths):
        raise UsageError(f"give lengths above 0 and below {_APART / 2:.0f} s, each once")
    kinds = [(kind, length) for length in lengths for kind in BEGINS_S]
    return [Case(kind, length, _APART * number) for number, (kind, length) in enumerate(kinds, 1)]


def plan_of(profile: str, cases: Sequence[Case], seed: int) -> LinkPlan:
    """The link with these outages and no others.

    Raises:
        UsageError: no such profile.
    """
    calm = msgspec.structs.replace(built_in().get(profile), outages=None)
    lasts = _APART * (len(cases) + 2)
    outages = tuple(case.outage for case in cases)
    return LinkPlan(profile, calm, seed, lasts_s=(lasts,) * len(calm.states), outages=outages)
