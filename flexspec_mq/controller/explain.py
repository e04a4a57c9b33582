"""Why a plan is as it is: what it was chosen over, and from what. Nothing is computed before somebody asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flexspec_mq.controller.plan import Observation, Plan, Policy

MOST = 5
"""Alternatives that are told of a plan."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """What a policy could have planned, or has.

    Attributes:
        name: who drafts, and how.
        seconds: of a token, as the policy expects or has measured it; None where it knows nothing of it.
        chosen: it is what the newest plan does.
        joules: of a token, as expected; None where no limit asks for it.
        allowed: no limit excludes it.
    """

    name: str
    seconds: float | None
    chosen: bool
    joules: float | None = None
    allowed: bool = True


LimitState = Literal["unknown", "kept", "exceeded", "out_of_reach", "below"]
"""Of a limit: nothing was measured yet; it is kept; it is not, while plans that keep it are made; no plan keeps
it, and the one that comes closest is carried out; the battery is below its floor, and the device drafts nothing."""


@dataclass(frozen=True, slots=True)
class LimitReport:
    """How a limit that the user gave is kept.

    Attributes:
        name: of its setting.
        limit: that was given, in `unit`.
        unit: of limit, value and reach.
        state: as of the newest plan.
        value: what is limited, as measured; None before.
        reach: the least that any plan is expected to come to; None while unknown, and for a battery.
    """

    name: str
    limit: float
    unit: str
    state: LimitState
    value: float | None = None
    reach: float | None = None


@runtime_checkable
class Limited(Protocol):
    """A policy that keeps limits."""

    def limits(self) -> Sequence[LimitReport]:
        """Those that were given, as of the newest plan. Changes nothing."""
        ...


@runtime_checkable
class Explains(Protocol):
    """A policy that can tell what it has chosen among."""

    def alternatives(self) -> Sequence[Alternative]:
        """What the newest plan was chosen among, itself included, in any order. Changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and where it comes from.

    Attributes:
        policy: that made it; asked for nothing but its alternatives.
        seen: what it was made from.
    """

    policy: Policy
    plan: Plan
    seen: Observation

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """At most `MOST` that it was chosen among, the fastest first; none where the policy compares nothing.

        The chosen one is named as the plan is: how it is carried out may differ from how it was compared, by longer
        batches that end early, or by run-ahead that is lent to a device that has not drafted yet.
        """
        if not isinstance(self.policy, Explains):
            return ()
        does, told = in_words(self.plan), dict[str, Alternative]()
        for one in sorted(self.policy.alternatives(), key=lambda one: (not one.chosen, _seconds(one))):
            told_as = replace(one, name=does) if one.chosen else one
            told.setdefault(told_as.name, told_as)
        return _fastest(told.values())

    @property
    def limits(self) -> tuple[LimitReport, ...]:
        """How the limits that the user gave are kept; none where none were given."""
        return tuple(self.policy.limits()) if isinstance(self.policy, Limited) else ()


def device_drafts(length: int, window: int, *, ahead: bool) -> str:
    """What it is called that the device drafts, K at a time with W in flight, and what the worker does meanwhile."""
    return f"device drafts K={length} W={window}, worker {'runs ahead' if ahead else 'waits'}"


def nobody_drafts(*, ahead: bool) -> str:
    """What it is called that the target decides each token without a draft."""
    return f"nobody drafts, worker {'runs ahead' if ahead else 'waits'}"


def in_words(plan: Plan) -> str:
    """What a plan does. Whether a worker drafts that may is its own affair."""
    ahead = plan.ahead > 0
    if ahead and plan.worker_draft and not plan.draft_length:
        return "worker runs ahead, and drafts if it can"
    if not plan.draft_length:
        return nobody_drafts(ahead=ahead)
    more = ", and drafts if it can" if ahead and plan.worker_draft else ""
    return device_drafts(plan.draft_length, plan.in_flight, ahead=ahead) + more


def _seconds(one: Alternative) -> float:
    return inf if one.seconds is None else one.seconds


def _fastest(found: Iterable[Alternative]) -> tuple[Alternative, ...]:
    by_speed = sorted(found, key=_seconds)
    kept = by_speed[:MOST]
    kept[-1:] = [one for one in by_speed[MOST:] if one.chosen] or kept[-1:]
    return tuple(kept)
