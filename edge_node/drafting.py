"""Drafts for all sessions of a node: one round after the other, on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from flexspec_mq import entropy

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from flexspec_mq.controller.estimators.node import NodeEstimates
    from flexspec_mq.drafting.interface import Drafted, Drafter, DraftRequest, DraftToken
    from flexspec_mq.protocol.effects import Effect

    _Answer = tuple[list[Drafted], float]
    _Freed = tuple[int, Callable[[], None] | None]
    _Round = tuple[asyncio.Future[_Answer] | None, Sequence[_Freed], Sequence[DraftRequest]]

_log = logging.getLogger(__name__)


class DraftLoop:
    """Asks the drafter for what sessions want, and hands them its tokens.

    Drafts are hints: a drafter that raises is not asked again, and the texts go on without it.

    Args:
        drafter: proposes tokens; None drafts nothing.
        sessions: texts being written, by number.
        estimates: told how many sessions share a round.
        perform: carries out what a session's machine wants.
    """

    def __init__(
        self,
        drafter: Drafter | None,
        sessions: Mapping[int, Generation],
        estimates: NodeEstimates,
        perform: Callable[[Generation, Iterable[Effect]], None],
    ) -> None:
        self._drafter = drafter
        self._rounds: SimpleQueue[_Round] = SimpleQueue()  # an executor makes 35 calls more a round
        self._sessions = sessions
        self._estimates = estimates
        self._perform = perform
        self._waiting: dict[int, Generation] = {}  # may want tokens
        self._freed: list[_Freed] = []
        self._work = asyncio.Event()

    def want(self, generation: Generation) -> None:
        """Ask a session in the next round what it wants drafted."""
        self._waiting[generation.session] = generation
        self._work.set()

    def free(self, session: int, remember: Callable[[], None] | None = None) -> None:
        """Forget a session that is over, and have the drafter's thread remember its answer."""
        self._waiting.pop(session, None)
        self._freed.append((session, remember))
        self._work.set()

    def close(self) -> None:
        """Take no more work. A forward that runs now is not waited for."""
        self._rounds.put((None, self._freed, ()))

    async def run(self) -> None:
        """Draft until cancelled."""
        if self._drafter is not None:
            Thread(target=self._serve, name="drafter").start()
        loop = asyncio.get_running_loop()
        while True:
            wanted = self._wanted()
            freed, self._freed = self._freed, []
            if not wanted and not (freed and self._drafter is not None):
                self._work.clear()
                await self._work.wait()
                continue
            self._estimates.drafting = max(1, len(wanted))
            requests = [request for _, request in wanted]
            answer: asyncio.Future[_Answer] = loop.create_future()
            self._rounds.put((answer, freed, requests))
            drafted, seconds = await answer
            for (generation, request), tokens in zip(wanted, drafted, strict=True):
                generation.drafted(seconds / len(wanted))
                if tokens is not None:
                    self._hand_over(generation, request, tokens)

    def _wanted(self) -> list[tuple[Generation, DraftRequest]]:
        """The request of every session; a session that cannot be drafted further sends what it has."""
        wanted: list[tuple[Generation, DraftRequest]] = []
        for session, generation in list(self._waiting.items()):
            request = generation.draft_request()
            if request is None:
                del self._waiting[session]
            elif self._drafter is not None and self._drafter.fits(request.context):
                wanted.append((generation, request))
            else:
                self._hand_over(generation, request, ())
        return wanted

    def _serve(self) -> None:
        """Answer rounds, on the drafter's thread, until there are no more."""
        while True:
            answer, freed, wanted = self._rounds.get()
            drafted = self._round(freed, wanted)
            if answer is None:
                return
            try:
                answer.get_loop().call_soon_threadsafe(_settle, answer, drafted)
            except RuntimeError:  # the event loop has been closed meanwhile: nobody waits for it
                continue

    def _round(self, freed: Sequence[_Freed], wanted: Sequence[DraftRequest]) -> _Answer:
        """Free sessions and draft for each that wants it; the drafts, and seconds for them."""
        nothing: list[Drafted] = [None] * len(wanted)
        drafter = self._drafter
        if drafter is None:
            return nothing, 0.0
        began = time.monotonic()
        try:
            for session, remember in freed:
                drafter.free(session)
                if remember is not None:
                    remember()
            began = time.monotonic()
            drafted = drafter.draft(wanted) if wanted else nothing
        except Exception:  # noqa: BLE001  the top of the drafter's thread; logged, and the target needs no drafts
            _log.exception("the drafter failed; the texts go on without drafts")
            self._drafter = None
            drafted = nothing
        return drafted, time.monotonic() - began

    def _hand_over(self, generation: Generation, request: DraftRequest, tokens: Sequence[DraftToken]) -> None:
        """Hand tokens to the session, as long as each follows the one before and is wanted; none: it gets no more."""
        now = entropy.now()
        machine = generation.machine
        if not tokens and generation.session in self._sessions:
            self._perform(generation, machine.draft_stopped(request.start, request.digest, now))
        before = 0
        for place, token in enumerate(tokens):
            if generation.session not in self._sessions:
                return
            if place:
                following = machine.draft_request()
                if following is None or machine.counters.drafted == before:
                    return  # enough, or the text has changed meanwhile
                request = following
            before = machine.counters.drafted
            effects = machine.drafted(request.start, request.digest, token, now)
            if effects or machine.fallback:
                self._perform(generation, effects)


def _settle(answer: asyncio.Future[_Answer], drafted: _Answer) -> None:
    """On the event loop. An answer that is done was cancelled."""
    if not answer.done():
        answer.set_result(drafted)
