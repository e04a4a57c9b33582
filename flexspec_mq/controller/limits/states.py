"""How limits stand, in words for people; changes are told once each, and only when they last."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.controller.explain import LimitReport, LimitState

_LASTS = 32
"""Tokens for which a state lasts before it is told: a text begins with what has no token yet."""


def state_of(limit: float, mean: float | None, reach: float | None) -> LimitState:
    """Of a budget or target.

    Args:
        limit: it.
        mean: as measured; None before.
        reach: the least that any plan is expected to come to; None while unknown.
    """
    if mean is not None and mean <= limit:
        return "kept"
    if reach is not None and reach > limit:
        return "out_of_reach"
    return "unknown" if mean is None else "exceeded"


class LimitStates:
    """What was told of each limit of a node. All are taken to be kept before anything is."""

    def __init__(self) -> None:
        self._told: dict[str, LimitState] = {}
        self._since: dict[str, tuple[LimitState, int]] = {}

    def saw(self, report: LimitReport, tokens: int, tell: Callable[[str], None]) -> None:
        """A limit stands so, after so many more tokens of any text."""
        name, state = report.name, report.state
        if state == "unknown" or state == self._told.get(name, "kept"):
            self._since.pop(name, None)
            return
        before, lasted = self._since.get(name, (state, 0))
        lasted = lasted + tokens if before == state else 0
        self._since[name] = state, lasted
        if lasted >= _LASTS:
            del self._since[name]
            self._told[name] = state
            tell(in_words(report))


def in_words(report: LimitReport) -> str:
    """How a limit stands, in a sentence without its end."""
    said = f"{report.name.replace('_', ' ')} of {report.limit:.3g} {report.unit}"
    has = "" if report.value is None else f": {report.value:.3g} so far"
    if report.state == "out_of_reach":
        least = "" if report.reach is None else f"; the best plan is expected to take {report.reach:.3g}"
        return f"{said} cannot be kept now{has}{least}"
    if report.state == "exceeded":
        return f"{said} is exceeded{has}"
    if report.state == "below":
        return f"{said}: the battery is below it, the device drafts nothing"
    return f"{said} is kept{has}"
