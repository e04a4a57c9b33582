"""Why a plan is as it is: what it was chosen over, and from what. Nothing is computed before somebody asks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flexspec_mq.controller.observation import Observation
    from flexspec_mq.controller.plan import Plan, Policy

MOST = 5
"""Alternatives that are told of a plan."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A plan that a policy has chosen among others, or has not.

    Attributes:
        name: who drafts, and how.
        seconds: expected for a token.
        chosen: it is what the newest plan does.
        joules: expected for a token; None where no limit asks for it.
        allowed: no limit excludes it.
    """

    name: str
    seconds: float
    chosen: bool
    joules: float | None = None
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure.

    Attributes:
        value: None where nothing was seen.
        unit: unit of value and error.
        error: standard error; None where it is not known.
        tries: tries that a share rests on, older ones counting less; None for what is no share.
    """

    value: float | None
    unit: str
    error: float | None = None
    tries: float | None = None


LimitState = Literal["unknown", "kept", "exceeded", "out_of_reach", "below"]
"""State of a limit: nothing was measured yet; it is kept; it is not, while plans that keep it are made; no plan keeps
it, and the one that comes closest is carried out; the battery is below its floor, and the device drafts nothing."""


@dataclass(frozen=True, slots=True)
class LimitReport:
    """How a limit that the user gave is kept.

    Attributes:
        name: name of its setting.
        limit: the value that was given, in `unit`.
        unit: unit of limit, value and reach.
        state: state as of the newest plan.
        value: the limited figure as measured; None before.
        reach: the least that any plan is expected to come to; None while unknown, and for a battery.
    """

    name: str
    limit: float
    unit: str
    state: LimitState
    value: float | None = None
    reach: float | None = None


@runtime_checkable
class Explains(Protocol):
    """A policy that can tell what it has chosen among, and how limits are kept."""

    def alternatives(self) -> Sequence[Alternative]:
        """Tell what the newest plan was chosen among, itself included, in any order. Changes nothing."""
        ...

    def limits(self) -> Sequence[LimitReport]:
        """Tell of the limits that were given, as of the newest plan. Changes nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and where it comes from.

    Attributes:
        policy: maker of the plan; asked for nothing but its alternatives.
        plan: the plan.
        seen: what it was made from.
        estimates: makes all estimates of the session, as they are now.
    """

    policy: Policy
    plan: Plan
    seen: Observation
    estimates: Callable[[], Mapping[str, Estimate]] = dict

    @property
    def alternatives(self) -> tuple[Alternative, ...]:
        """At most `MOST` that it was chosen among, the fastest first; none where the policy compares nothing.

        The chosen one is named as the plan is: how it is carried out may differ from how it was compared, by run-ahead
        that is lent to a device that has not drafted yet.
        """
        if not isinstance(self.policy, Explains):
            return ()
        does, told = in_words(self.plan), dict[str, Alternative]()
        for one in sorted(self.policy.alternatives(), key=lambda one: (not one.chosen, one.seconds)):
            named = replace(one, name=does) if one.chosen else one
            told.setdefault(named.name, named)
        by_speed = sorted(told.values(), key=lambda one: one.seconds)
        kept = by_speed[:MOST]
        kept[-1:] = [one for one in by_speed[MOST:] if one.chosen] or kept[-1:]
        return tuple(kept)

    @property
    def limits(self) -> tuple[LimitReport, ...]:
        """How the limits that the user gave are kept; none where none were given."""
        return tuple(self.policy.limits()) if isinstance(self.policy, Explains) else ()


def device_drafts(length: int, window: int, *, ahead: bool) -> str:
    """Words for a device that drafts, K at a time with W in flight, and for what the worker does meanwhile."""
    return f"device drafts K={length} W={window}, worker {'runs ahead' if ahead else 'waits'}"


def nobody_drafts(*, ahead: bool) -> str:
    """Words for a target that decides each token without a draft."""
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


def limit_in_words(report: LimitReport) -> str:
    """How a limit stands, in a sentence without its end."""
    words = f"{report.name.replace('_', ' ')} of {report.limit:.3g} {report.unit}"
    has = "" if report.value is None else f": {report.value:.3g} so far"
    if report.state == "out_of_reach":
        least = "" if report.reach is None else f"; the best plan is expected to take {report.reach:.3g}"
        return f"{words} cannot be kept now{has}{least}"
    if report.state == "exceeded":
        return f"{words} is exceeded{has}"
    if report.state == "below":
        return f"{words}: the battery is below it, the device drafts nothing"
    return f"{words} is kept{has}"
