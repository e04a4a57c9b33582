"""How many publishes may be unacknowledged: the broker's Receive Maximum, kept on our side."""

from __future__ import annotations

import asyncio
from collections import deque

from flexspec_mq.errors import LinkDown


class SendQuota:
    """A first-come semaphore whose waiters are woken by the end of the connection.

    Its queue is bounded by the callers: `LinkSettings.outbound_queue`.
    """

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._end: str | None = None

    async def acquire(self) -> None:
        """Take a place.

        Raises:
            LinkDown: `abort` was called.
        """
        if self._end is not None:
            raise LinkDown(self._end)
        if self._free > 0 and not self._waiters:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release()  # the place came together with the cancellation
            elif turn in self._waiters:
                self._waiters.remove(turn)
            raise

    def release(self) -> None:
        """Give a place back, to the first who waits."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def abort(self, reason: str) -> None:
        """Turn away all who wait or will."""
        self._end = reason
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_exception(LinkDown(reason))
