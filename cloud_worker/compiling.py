"""Grammars of opens, compiled on a thread of their own before the protocol's machine sees the opens."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from flexspec_mq.errors import FlexSpecError, GrammarError, RemoteProtocolError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.matcher import engine_name
from schemas.messages import ErrorCode

if TYPE_CHECKING:
    from flexspec_mq.grammar.compiled import CompiledGrammars
    from schemas.messages import Open

_MOST_WAITING = 64
"""Opens whose grammars wait to be compiled."""


class OpenRefused(FlexSpecError):
    """An open is not taken because of its grammar.

    Attributes:
        code: code that its edge is told.
    """

    def __init__(self, code: ErrorCode, why: str = "") -> None:
        super().__init__(why)
        self.code = code


class GrammarCompiler:
    """Compiles what opens carry.

    Args:
        grammars: where to; None if texts can have none.
    """

    def __init__(self, grammars: CompiledGrammars | None) -> None:
        self._grammars = grammars
        self._thread = ThreadPoolExecutor(1, "grammars")
        self._waiting = 0

    def close(self) -> None:
        """Compile nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def has(self, message: Open) -> bool:
        """Whether an open needs nothing compiled."""
        digest = message.identity.grammar
        return digest is None or (self._grammars is not None and self._grammars.get(digest) is not None)

    async def compile(self, message: Open) -> None:
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
        if self._waiting >= _MOST_WAITING:
            raise OpenRefused(ErrorCode.BUSY, "too many grammars wait to be compiled")
        self._waiting += 1
        try:
            grammar = Grammar.unpack(message.grammar)
            if grammar.digest(engine_name()) != message.identity.grammar:
                raise OpenRefused(ErrorCode.BUSY, f"grammars are read by {engine_name()} here")
            await asyncio.get_running_loop().run_in_executor(self._thread, self._grammars.compile, grammar)
        except GrammarError as error:
            raise OpenRefused(ErrorCode.GRAMMAR, error.message) from error
        except RemoteProtocolError as error:
            raise OpenRefused(ErrorCode.MALFORMED, error.message) from error
        finally:
            self._waiting -= 1
