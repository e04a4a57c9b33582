"""KV caches of all sessions, under one limit in bytes.

A cache can always be dropped: its session's tokens are read again when the session comes back, which is exact and
only slower. So what is worth least goes first: caches of texts that have ended, then those of sessions that wait for
their edge, then those of sessions whose work arrived later; within each kind the one that was used longest ago.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import chain
from typing import TYPE_CHECKING

from flexspec_mq.models.kv import GRAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flexspec_mq.models.kv import SessionKV
    from flexspec_mq.protocol.effects import SessionKey


class KVCache:
    """The KV caches of all sessions.

    Attributes:
        limit: most bytes held at any moment, copies during growth included; None is no limit.
        nbytes: bytes held.
        room: tokens of one session that fit, with no other session there; None is no limit.
        dropped: caches of ended texts that were dropped to make room.
        evicted: caches of live sessions that were.
    """

    def __init__(self, new: Callable[[], SessionKV], limit: int | None = None) -> None:
        self._new = new
        self.limit = limit
        grain = GRAIN * new().token_bytes
        self.room = None if limit is None else limit // grain * GRAIN
        self.nbytes = 0
        self.dropped = 0
        self.evicted = 0
        self._live: OrderedDict[SessionKey, SessionKV] = OrderedDict()
        self._ended: OrderedDict[SessionKey, SessionKV] = OrderedDict()

    def __len__(self) -> int:
        """Sessions whose KV cache is held, ended ones included."""
        return len(self._live) + len(self._ended)

    def get(self, key: SessionKey) -> SessionKV | None:
        """The cache of a session, if there is one."""
        return self._live.get(key) or self._ended.get(key)

    def of_head(self, key: SessionKey, head: str) -> SessionKV | None:
        """As `get`, but a cache that another head made is dropped: tokens may agree where the KV cache does not.

        An edge may open a session anew under the key of one that has ended, and with another version.
        """
        kv = self.get(key)
        if kv is not None and kv.length and kv.head != head:
            self.free(key)
            return None
        return kv

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        kv = self._live.pop(key, None) or self._ended.pop(key, None)
        if kv is not None:
            self.nbytes -= kv.nbytes

    def release(self, key: SessionKey) -> None:
        """The session's text has ended: its cache may serve another text, and is the first to go."""
        kv = self._live.pop(key, None)
        if kv is not None:
            self._ended[key] = kv

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None = None) -> None:
        """Give the cache of `source` to `key`, in place of its own; `source` need not have one.

        Args:
            source: whose it was.
            key: whose it becomes.
            shared: tokens that are copied, if there is room for a copy; None moves all.
        """
        kv = self.get(source)
        if kv is None:
            return
        if shared is not None and self._fits(kv.nbytes):
            kv = kv.branch(shared)
            self.nbytes += kv.nbytes
        else:
            self._live.pop(source, None)
            self._ended.pop(source, None)
        self.free(key)
        self._live[key] = kv

    def take(
        self, key: SessionKey, length: int, whole: int, waiting: Sequence[SessionKey] = (), *, soon: int = 0
    ) -> SessionKV | None:
        """The cache of a session with room for `length` tokens; drops others where there is no room.

        Where the old memory and the larger new one do not fit side by side, the session's own tokens are forgotten,
        and there is room for its whole text at once, so that it happens once.

        Args:
            key: whose; it counts as used now and live.
            length: tokens that it must have room for, those that it holds included.
            whole: tokens that it can ever need.
            waiting: sessions with work, in the order in which it arrived. Caches of those up to `key` stay.
            soon: tokens that it will need before long, as its prompt is being read: there is room for them at once
                where nothing has to go for it, since each growth copies all and delays a forward.

        Returns:
            None if there is no room now. Then nothing was dropped.
        """
        kv = self._live.pop(key, None) or self._ended.pop(key, None) or self._new()
        self._live[key] = kv
        if kv.grown(length) > kv.capacity and self._fits(kv.grown(max(length, soon)) * kv.token_bytes):
            self._grow(kv, max(length, soon))
        elif not self._make_room(kv, key, length, max(length, whole), waiting):
            if not kv.nbytes:
                del self._live[key]
            return None
        return kv

    def _make_room(
        self, kv: SessionKV, key: SessionKey, length: int, whole: int, waiting: Sequence[SessionKey]
    ) -> bool:
        if kv.grown(length) == kv.capacity:
            return True
        if self._drop_for(kv.grown(length) * kv.token_bytes, key, waiting):
            self._grow(kv, length)
            return True
        if self._drop_for(kv.grown(whole) * kv.token_bytes - kv.nbytes, key, waiting):
            self.nbytes -= kv.nbytes
            kv.give_back()
            self._grow(kv, whole)
            return True
        return False

    def _grow(self, kv: SessionKV, length: int) -> None:
        before = kv.nbytes
        kv.reserve(length)
        self.nbytes += kv.nbytes - before

    def _fits(self, more: int) -> bool:
        return self.limit is None or self.nbytes + more <= self.limit

    def _drop_for(self, more: int, key: SessionKey, waiting: Sequence[SessionKey]) -> bool:
        """Drop caches until `more` bytes fit; drop none if they would not fit then either."""
        chosen: list[SessionKey] = []
        freed = 0
        victims = self._victims(key, waiting)
        while not self._fits(more - freed):
            victim = next(victims, None)
            if victim is None:
                return False
            chosen.append(victim)
            freed += (self._ended.get(victim) or self._live[victim]).nbytes
        for victim in chosen:
            self.dropped += victim in self._ended
            self.evicted += victim in self._live
            self.free(victim)
        return True

    def _victims(self, key: SessionKey, waiting: Sequence[SessionKey]) -> Iterator[SessionKey]:
        """Whose caches may go for `key`, the least worth first."""
        busy = set(waiting)
        idle = (one for one in chain(self._ended, self._live) if one not in busy and one != key)
        later = waiting[waiting.index(key) + 1 :] if key in busy else ()
        return chain(idle, (one for one in reversed(later) if self.get(one) is not None))
