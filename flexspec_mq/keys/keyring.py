"""The keys of one session at a device: one for its opens, and one with each worker that answered."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.keys.agreement import SessionContext
from flexspec_mq.keys.envelope import Cipher
from flexspec_mq.keys.replays import ReplayWindow
from schemas.messages import Draft, Poll

_MOST_WORKERS, _MOST_LIVES = 8, 2
"""Workers of a session whose keys are kept, and lives of each; the oldest goes first."""
_MOST_OVER: Final = 256
"""Earlier lives that are remembered as such."""


@dataclass(slots=True)
class Peer:
    """A worker of a session, in one of its lives."""

    name: str
    serial: bytes
    up: Cipher
    down: Cipher
    replays: ReplayWindow = field(default_factory=ReplayWindow)


@dataclass(slots=True)
class Keyring:
    """All keys of one session.

    Attributes:
        sent: messages so far, under whichever key.
        newest: draft or poll, and the worker that it went to; None once that worker was polled for want of the key.
        asked_at: when a worker may be polled so again.
        revoked: workers that were.
        over: ephemeral keys of workers' earlier lives, whose copies must not take the newest one's place.
    """

    session: SessionContext
    private: X25519PrivateKey
    opening: Cipher
    sent: int = 0
    peers: OrderedDict[bytes, Peer] = field(default_factory=OrderedDict)
    newest: tuple[str, Draft | Poll] | None = None
    asked_at: float = 0.0
    revoked: set[str] = field(default_factory=set)
    over: ExpiringMap[bytes, bool] = field(default_factory=lambda: ExpiringMap(most=_MOST_OVER))

    def with_worker(self, name: str) -> Peer | None:
        """A worker in its newest life; None if it has no key here."""
        for peer in reversed(self.peers.values()):
            if peer.name == name:
                return peer
        return None

    def add(self, ephemeral: bytes, peer: Peer) -> None:
        """Keep one more, and no more of a worker than its newest lives: others' keys are not its to push out."""
        lives = [key for key, known in self.peers.items() if known.name == peer.name]
        for key in lives[: 1 - _MOST_LIVES]:
            del self.peers[key]
            self.over.put(key, True, 0.0)
        if not lives and len({known.name for known in self.peers.values()}) >= _MOST_WORKERS:
            oldest = next(iter(self.peers.values())).name
            self.peers = OrderedDict((key, one) for key, one in self.peers.items() if one.name != oldest)
        self.peers[ephemeral] = peer
