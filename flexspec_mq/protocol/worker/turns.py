"""Whose turn it is, to be served or to go: devices first, then the sessions of each."""

from collections import Counter
from collections.abc import Iterable, Sequence

from flexspec_mq.protocol.effects import SessionKey


def by_device(waiting: Iterable[SessionKey]) -> list[SessionKey]:
    """The same sessions: the first of each device, then the second of each, and so on.

    Args:
        waiting: sessions, the first of them first; that order holds within a device, and between devices.
    """
    before = Counter[str]()
    placed = []
    for place, key in enumerate(waiting):
        placed.append((before[key[0]], place, key))
        before[key[0]] += 1
    return [key for _, _, key in sorted(placed)]


def to_go(kept: Sequence[SessionKey]) -> SessionKey:
    """The session that goes where too many are kept, of sessions with the oldest first.

    It is the oldest of the device that has the most; of several such devices, of the one with the oldest.
    """
    sessions = Counter(edge for edge, _ in kept)
    most = max(sessions.values())
    return next(key for key in kept if sessions[key[0]] == most)
