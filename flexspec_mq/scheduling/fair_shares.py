"""Who shares the next forward: devices first, then the sessions of each.

Each device that waits gets a row for its session that has waited longest, then each one that has more a row for the
next, and so on. Up to as many sessions as the device with the fewest has, all get alike. Sessions beyond that ride
along as far as they make the forward hardly longer: a device with few sessions loses `GIVES` of its speed at most by
those that others have more. Where all others are away, drafting maybe, they may be back before the forward ends: it
is no longer than `WAITS` more than one for a single session, or, if they were here less lately, than `NEWCOMER`. On
an accelerator, where a row costs next to nothing, all ride along.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

from collections import Counter
from math import inf
from typing import TYPE_CHECKING

from flexspec_mq.protocol.worker.turns import by_device

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from flexspec_mq.protocol.effects import SessionKey

GIVES = 0.03
"""By how much longer a forward may be for the sessions that one device has more than another."""
WAITS = 0.5
"""The same, where all others are away for the moment."""
NEWCOMER = 100.0
"""Milliseconds that a forward for one device takes about, where others were here lately and may come again."""
MOMENT, LATELY = 0.5, 30.0
"""Seconds for which a device that was here counts as away for the moment, and as one that may come again."""
_PROBE = 16
"""Interval of forwards that leave out what rides along, so that its cost stays known."""


class Presence:
    """Which devices had work lately. Calls take `now` in seconds."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def observe(self, devices: Iterable[str], now: float) -> None:
        """These have work now."""
        for device in devices:
            self._seen.pop(device, None)
            self._seen[device] = now

    def since_others(self, devices: Collection[str], now: float) -> float:
        """Seconds since a device that is not among these had work; infinite if none had lately."""
        while self._seen and now - self._seen[first := next(iter(self._seen))] > LATELY:
            del self._seen[first]
        return min((now - at for device, at in self._seen.items() if device not in devices), default=inf)


def sharing(
    waiting: Sequence[SessionKey],
    ms: Callable[[int], float],
    most: int,
    *,
    beside: Collection[str] = (),
    away: float = inf,
    turn: int = 1,
) -> list[SessionKey]:
    """Choose among sessions that wait for a row those that share the next forward.

    Args:
        waiting: the one that has waited longest first.
        ms: Milliseconds of a forward that decides so many; 0 while nothing is known.
        most: sessions at most.
        beside: devices for which the forward reads.
        away: seconds since any other device had work.
        turn: number of the forward.
    """
    order = by_device(waiting)
    sessions = Counter(edge for edge, _ in order)
    if len(sessions.keys() | set(beside)) > 1:
        fewest = 1 if set(beside) - sessions.keys() else min(sessions.values(), default=0)
        count = sum(min(fewest, number) for number in sessions.values())
        bound = (1.0 + GIVES) * ms(count)
    elif away <= LATELY:
        count = min(1, len(order))
        bound = (1.0 + WAITS) * ms(1)
        if away > MOMENT:
            bound = max(bound, NEWCOMER)
    else:
        return order[:most]
    if not turn % _PROBE:
        return order[: min(count, most)]
    while count < len(order) and ms(count + 1) <= bound:
        count += 1
    return order[: min(count, most)]


def weight(writing: Collection[SessionKey], reading: Mapping[str, int]) -> int:
    """Number of sessions for whose sake a forward should be short, when drafts ask for rows or forwards of a draft.

    Prompts of one device, however many wait to be read, count for no more than the sessions of the device that has
    the fewest: they are read a few at a time, and others would get no drafts for as long as they wait. `reading` is
    the number of sessions by device whose prompt is not read to its end.
    """
    sessions = Counter(edge for edge, _ in writing) + Counter(reading)
    most = min(sessions.values()) if len(sessions) > 1 else inf
    return len(writing) + int(sum(min(most, number) for number in reading.values()))
