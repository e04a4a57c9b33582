"""Grammars of a target's texts, compiled once each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.reader import engine_name

if TYPE_CHECKING:
    from flexspec_mq.grammar.matcher import CompiledGrammar, GrammarTokenizer

_MOST: Final = 64
_MOST_BYTES: Final = 256_000_000
"""Grammars that are kept beyond their last text, and their memory; those used longest ago go first."""


class CompiledGrammars:
    """Compiled grammars of one tokenizer, by digest, and errors of those that cannot be. Used on any thread.

    Args:
        tokenizer_json: gives the contents of the tokenizer's tokenizer.json, with the first grammar.
        rows: token ids that the target has, padding included.
        eos: ids that end a text.
    """

    def __init__(self, tokenizer_json: Callable[[], str], rows: int, eos: Sequence[int]) -> None:
        self._json, self._rows, self._eos = tokenizer_json, rows, eos
        self._tokenizer: GrammarTokenizer | None = None
        self._kept: OrderedDict[bytes, CompiledGrammar | GrammarError] = OrderedDict()
        self._used: WeakValueDictionary[bytes, CompiledGrammar] = WeakValueDictionary()
        self._lock = Lock()

    def get(self, digest: bytes) -> CompiledGrammar | None:
        """A grammar, if it is here."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
            return self._used.get(digest)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compile a grammar, unless it is here. May take a second, without the GIL.

        Raises:
            GrammarError: it cannot be used.
        """
        digest = grammar.digest(engine_name())
        known = self.get(digest) or self._kept.get(digest)
        if isinstance(known, GrammarError):
            raise GrammarError(known.message, hint=known.hint)
        if known is not None:
            return known
        try:
            compiled = self._reader().compile(grammar)
        except GrammarError as error:
            self._keep(digest, GrammarError(error.message, hint=error.hint))
            raise
        self._used[digest] = compiled
        self._keep(digest, compiled)
        return compiled

    def close(self) -> None:
        """End the process in which grammars are tried, if there is one."""
        if self._tokenizer is not None:
            self._tokenizer.close()

    def error_of(self, grammar: Grammar) -> str:
        """Error of a grammar; empty if it has none."""
        return self._reader().error_of(grammar)

    def _reader(self) -> GrammarTokenizer:
        from flexspec_mq.grammar.matcher import GrammarTokenizer

        if self._tokenizer is None:
            self._tokenizer = GrammarTokenizer(self._json(), self._rows, self._eos)
        return self._tokenizer

    def _keep(self, digest: bytes, outcome: CompiledGrammar | GrammarError) -> None:
        with self._lock:
            self._kept[digest] = outcome
            size = sum(getattr(each, "size", 0) for each in self._kept.values())
            while len(self._kept) > _MOST or size > _MOST_BYTES:
                size -= getattr(self._kept.popitem(last=False)[1], "size", 0)
