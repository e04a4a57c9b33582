"""Which plans limits leave, and which of these is best."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.controller.limits.outlook import Option

_BETTER = 0.03
"""Another way has to be better by so much: estimates are no better than that."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a plan may take at this moment.

    Attributes:
        joules: of a token at most; None is no bound, and it may be negative.
        seconds: likewise.
        drafts: the device may draft.
    """

    joules: float | None = None
    seconds: float | None = None
    drafts: bool = True


@dataclass(frozen=True, slots=True)
class Allowed:
    """What bounds leave of all options.

    Attributes:
        options: all.
        left: those within the bounds; where none is, the one that comes closest. Never empty.
        joules: the least that any is expected to take, of those that may draft; None while unknown.
        seconds: the least of those within the bound of joules.
    """

    options: Sequence[Option]
    left: Sequence[Option]
    joules: float | None
    seconds: float

    def has(self, option: Option, bounds: Bounds) -> bool:
        """Whether an option, which need not be one of `options`, is within the bounds too, or comes as close."""
        if option.choice.length and not bounds.drafts:
            return False
        if bounds.joules is not None and _joules(option) > max(bounds.joules, min(map(_joules, self.left))):
            return False
        return bounds.seconds is None or option.seconds <= max(bounds.seconds, self.seconds)

    def best(self, before: Option | None, *, frugal: bool) -> Option:
        """The one to take.

        Args:
            before: the one that was taken before, which stays while it is about as good; None before any.
            frugal: the one with the least joules, or bytes where these are unknown; else the fastest.
        """
        cost = _effort if frugal else _seconds
        best = min(self.left, key=cost)
        if before is not None:
            same = next((one for one in self.left if one.choice == before.choice), None)
            if same is not None and cost(best) > cost(same) * (1 - _BETTER):
                return same
        return best


def allowed(options: Sequence[Option], bounds: Bounds) -> Allowed:
    """What bounds leave. That of joules comes before that of seconds.

    Args:
        options: at least one of them drafts nothing on the device.
        bounds: of a plan.
    """
    left = [one for one in options if bounds.drafts or not one.choice.length]
    least = min(left, key=_joules)
    if bounds.joules is not None:
        most = bounds.joules
        left = [one for one in left if _joules(one) <= most] or [least]
    fastest = min(left, key=_seconds)
    if bounds.seconds is not None:
        longest = bounds.seconds
        left = [one for one in left if one.seconds <= longest] or [fastest]
    return Allowed(options, left, least.joules, fastest.seconds)


def _seconds(one: Option) -> float:
    return one.seconds


def _joules(one: Option) -> float:
    """While nothing is known, drafts of the device are too much, and anything else is nothing."""
    if one.joules is not None:
        return one.joules
    return inf if one.choice.length else 0.0


def _effort(one: Option) -> float:
    return one.size if one.joules is None else one.joules
