"""In which order sessions have their turns: devices first, then the sessions of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from flexspec_mq.protocol.effects import SessionKey


def by_device(waiting: Iterable[SessionKey]) -> list[SessionKey]:
    """The same sessions: the first of each device, then the second of each, and so on.

    Args:
        waiting: those that come first among the sessions of their device, and devices among each other, come first.
    """
    before = Counter[str]()
    placed = []
    for place, key in enumerate(waiting):
        placed.append((before[key[0]], place, key))
        before[key[0]] += 1
    return [key for _, _, key in sorted(placed)]
