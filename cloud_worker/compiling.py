"""Grammars of opens, compiled on a thread of their own before the protocol's machine sees the opens."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from flexspec_mq.errors import FlexSpecError, GrammarError, RemoteProtocolError
from flexspec_mq.grammar.compiled import CompiledGrammars
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name
from schemas.messages import ErrorCode, Open

if TYPE_CHECKING:
    from cloud_worker.admission import MessageAdmission

_MOST_WAITING, _MOST_OF_ONE = 256, 16
"""Opens whose grammars wait to be compiled: all, and those of one device."""


class OpenRefused(FlexSpecError):
    """An open is not taken because of its grammar.

    Attributes:
        code: code that its edge is told.
    """

    def __init__(self, code: ErrorCode, why: str = "") -> None:
        super().__init__(why)
        self.code = code


class GrammarCompiler:
    """Compiles what opens carry, one after the other; devices take turns, and pay for the time it took.

    Args:
        grammars: where to; None if texts can have none.
        admission: whom the time is told.
    """

    def __init__(self, grammars: CompiledGrammars | None, admission: MessageAdmission) -> None:
        self._grammars = grammars
        self._admission = admission
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._turns: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._busy = False
        if grammars is not None:  # so that no open waits for the tokenizer
            self._thread.submit(grammars.compile, Grammar.from_json_schema({"type": "object"}))

    def close(self) -> None:
        """Compile nothing more."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._grammars is not None:
            self._grammars.close()

    def has(self, message: Open) -> bool:
        """Whether an open needs nothing compiled."""
        digest = message.identity.grammar
        return digest is None or (self._grammars is not None and self._grammars.get(digest) is not None)

    async def compile(self, edge: str, message: Open) -> None:
        """Compile the grammar of an open, so that it may be taken.

        Raises:
            OpenRefused: it may not.
        """
        if self._grammars is None:
            raise OpenRefused(
                ErrorCode.BUSY, "this worker has no grammars: llguidance is not installed there"
            )
        if not message.grammar:
            raise OpenRefused(ErrorCode.NEED_PREFIX)
        await self._turn(edge)
        try:
            if not self._admission.solvent(edge):
                raise OpenRefused(
                    ErrorCode.BUSY, "the grammars of this device took more than its share of time"
                )
            loop = asyncio.get_running_loop()
            refused, ms = await loop.run_in_executor(self._thread, _compile, message, self._grammars)
        finally:
            self._busy = False
            self._next()
        self._admission.charge(edge, ms)
        if refused is not None:
            raise refused

    async def _turn(self, edge: str) -> None:
        """Wait until nobody else's grammar is compiled."""
        counts = {device: len(turns) for device, turns in self._turns.items()}
        if counts.get(edge, 0) >= _MOST_OF_ONE or sum(counts.values()) >= _MOST_WAITING:
            raise OpenRefused(ErrorCode.BUSY, "too many grammars wait to be compiled")
        turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(edge, deque()).append(turn)
        self._next()
        await turn

    def _next(self) -> None:
        while self._turns and not self._busy:
            edge, waiting = self._turns.popitem(last=False)
            turn = waiting.popleft()
            if waiting:
                self._turns[edge] = waiting
            if not turn.done():
                self._busy = True
                turn.set_result(None)


def _compile(message: Open, grammars: CompiledGrammars) -> tuple[OpenRefused | None, float]:
    """Why an open is not taken, and milliseconds that it took to find that out."""
    began, refused, ms = time.thread_time(), None, 0.0
    try:
        grammar = Grammar.unpack(message.grammar)
        if grammar.digest(engine_name()) == message.identity.grammar:
            ms = grammars.compile(grammar).ms
        else:
            refused = OpenRefused(ErrorCode.BUSY, f"grammars are read by {engine_name()} here")
    except GrammarError as error:
        refused, ms = OpenRefused(ErrorCode.GRAMMAR, error.message), error.ms
    except RemoteProtocolError as error:
        refused = OpenRefused(ErrorCode.MALFORMED, error.message)
    return refused, ms + 1000 * (time.thread_time() - began)
