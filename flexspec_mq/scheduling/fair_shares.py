"""Who shares the next forward: devices first, then the sessions of each.

Each device that waits gets a row for its session that has waited longest, then each one that has more a row for the
next, and so on. Up to as many sessions as the device with the fewest has, all get alike. Sessions beyond that ride
along as far as they make the forward hardly longer: a device with few sessions loses `GIVES` of its speed at most by
those that others have more. On an accelerator, where a row costs next to nothing, that is all of them.

Pure: it is told milliseconds, and measures nothing.
"""

from __future__ import annotations

from collections import Counter
from math import exp
from typing import TYPE_CHECKING

from flexspec_mq.protocol.worker.turns import by_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flexspec_mq.protocol.effects import SessionKey

GIVES = 0.1
"""By how much longer a forward may be for the sessions that one device has more than another."""
_KEEPS = 10.0
"""Seconds after which a third is left of what is remembered of a device's reading."""
_MOST = 4096


def sharing(waiting: Sequence[SessionKey], ms: Callable[[int], float], most: int) -> list[SessionKey]:
    """Of sessions that wait for a row, those that share the next forward.

    Args:
        waiting: the one that has waited longest first.
        ms: what a forward takes that decides so many; 0 while nothing is known.
        most: sessions at most.
    """
    order = by_device(waiting)
    sessions = Counter(edge for edge, _ in order)
    fewest = min(sessions.values(), default=0)
    count = alike = sum(min(fewest, number) for number in sessions.values())
    bound = (1.0 + GIVES) * ms(alike)
    while count < len(order) and ms(count + 1) <= bound:
        count += 1
    return order[: min(count, most)]


class ReadingDebts:
    """How many tokens of prompts each device has had read lately. Calls take `now` in seconds."""

    def __init__(self) -> None:
        self._debts: dict[str, tuple[float, float]] = {}

    def of(self, edge: str, now: float) -> float:
        """Tokens; those that were read longer ago count less."""
        tokens, at = self._debts.get(edge, (0.0, now))
        return tokens * exp((at - now) / _KEEPS)

    def add(self, edge: str, tokens: int, now: float) -> None:
        """So many were read."""
        total = self.of(edge, now) + tokens
        self._debts.pop(edge, None)
        self._debts[edge] = total, now
        if len(self._debts) > _MOST:
            del self._debts[next(iter(self._debts))]
