"""The drafter's thread: one forward after the other for all sessions that want a token."""

from __future__ import annotations

import asyncio
import logging
import time
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.drafting.interface import Drafted, Drafter, DraftRequest

    _Round = tuple[asyncio.Future[list[Drafted]], Sequence[int], Sequence[DraftRequest]]

_log = logging.getLogger(__name__)


class DrafterThread:
    """Asks a drafter, on one thread of its own, which starts with the first round.

    Drafts are hints: a drafter that raises is not asked again, and the texts go on without it.

    Args:
        drafter: None drafts nothing.

    Attributes:
        busy: seconds that its rounds have drafted for, of those that are over.
    """

    def __init__(self, drafter: Drafter | None) -> None:
        self._drafter = drafter
        self.busy = 0.0
        self._thread: Thread | None = None
        self._rounds: SimpleQueue[_Round | None] = SimpleQueue()
        """As long as the rounds that somebody waits for: the node asks for one after the other."""

    @property
    def works(self) -> bool:
        """Whether there is a drafter that can be asked."""
        return self._drafter is not None

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return self._drafter is not None and self._drafter.fits(context)

    def round(self, freed: Sequence[int], wanted: Sequence[DraftRequest]) -> asyncio.Future[list[Drafted]]:
        """Free sessions and draft for each that wants it."""
        if self._thread is None:
            self._thread = Thread(target=self._loop, name="drafter")
            self._thread.start()
        answer: asyncio.Future[list[Drafted]] = asyncio.get_running_loop().create_future()
        self._rounds.put((answer, freed, wanted))
        return answer

    def close(self) -> None:
        """Take no more work. A forward that runs now is not waited for."""
        self._rounds.put(None)

    def _loop(self) -> None:
        while (asked := self._rounds.get()) is not None:
            answer, freed, wanted = asked
            found = self._run(freed, wanted)
            try:
                answer.get_loop().call_soon_threadsafe(_settle, answer, found)
            except RuntimeError:  # the event loop has been closed meanwhile: nobody waits for it
                return

    def _run(self, freed: Sequence[int], wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """On the drafter's thread."""
        nothing: list[Drafted] = [None] * len(wanted)
        drafter = self._drafter
        if drafter is None:
            return nothing
        try:
            for session in freed:
                drafter.free(session)
            return self._timed(drafter, wanted) if wanted else []
        except Exception:  # noqa: BLE001  the top of the drafter's thread; logged, and the target needs no drafts
            _log.exception("the drafter failed; the texts go on without drafts")
            self._drafter = None
            return nothing

    def _timed(self, drafter: Drafter, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        began = time.monotonic()
        try:
            return drafter.draft(wanted)
        finally:
            self.busy += time.monotonic() - began


def _settle(answer: asyncio.Future[list[Drafted]], found: list[Drafted]) -> None:
    """On the event loop. An answer that is done was cancelled."""
    if not answer.done():
        answer.set_result(found)
