"""Which workers hold our sessions, and whether the lives that we knew go on.

A worker that is gone is asked again, never given up on: it may only have lost its connection for a
moment.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flexspec_mq.protocol.lives import Life, life_of

if TYPE_CHECKING:
    from schemas.status import WorkerStatus


class WorkerLiveness:
    """Knows the life of each worker for as long as it holds a session. Bounded by the sessions."""

    def __init__(self) -> None:
        self._worker_of: dict[int, str] = {}
        self._lives: dict[str, Life] = {}
        self._changed = asyncio.Event()

    @property
    def workers(self) -> set[str]:
        """Workers that hold a session."""
        return set(self._worker_of.values())

    def holds(self, session: int, worker: str | None) -> None:
        """Note which worker holds a session now; None when none does or the session is over."""
        if self._worker_of.get(session) == worker:
            return
        if worker is None:
            del self._worker_of[session]
        else:
            self._worker_of[session] = worker
        for name in self._lives.keys() - self.workers:
            del self._lives[name]
        self._changed.set()

    def sessions_of(self, worker: str) -> list[int]:
        """Sessions that a worker holds."""
        return [session for session, holder in self._worker_of.items() if holder == worker]

    def ended(self, status: WorkerStatus) -> bool:
        """Take a status that is news; tell whether it says that the life of a worker that we knew is over."""
        if status.worker not in self.workers:
            return False
        life, known = life_of(status), self._lives.get(status.worker)
        self._lives[status.worker] = life
        return status.state == "gone" or known not in (None, life)

    async def changed(self) -> None:
        """Wait until other workers may hold sessions than when this was last called."""
        await self._changed.wait()
        self._changed.clear()
