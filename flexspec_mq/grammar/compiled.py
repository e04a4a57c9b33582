"""Grammars of a target's texts, compiled once each."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from flexspec_mq.grammar.matcher import GrammarTokenizer, engine_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flexspec_mq.grammar.grammar import Grammar
    from flexspec_mq.grammar.matcher import CompiledGrammar

_MOST = 256
"""Compiled grammars that are kept; those used longest ago go first."""


class CompiledGrammars:
    """Compiled grammars of one tokenizer, by digest. Used on any thread.

    Args:
        tokenizer_json: gives the contents of the tokenizer's tokenizer.json, with the first grammar.
        rows: token ids that the target has, padding included.
        eos: ids that end a text.
        most: grammars that are kept.
    """

    def __init__(
        self, tokenizer_json: Callable[[], str], rows: int, eos: Sequence[int], most: int = _MOST
    ) -> None:
        self._json, self._rows, self._eos = tokenizer_json, rows, eos
        self._most = most
        self._tokenizer: GrammarTokenizer | None = None
        self._compiled: OrderedDict[bytes, CompiledGrammar] = OrderedDict()
        self._lock = Lock()

    def get(self, digest: bytes) -> CompiledGrammar | None:
        """A grammar, if it is here."""
        with self._lock:
            if digest in self._compiled:
                self._compiled.move_to_end(digest)
            return self._compiled.get(digest)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compile a grammar, unless it is here. May take some hundred milliseconds, without the GIL.

        Raises:
            GrammarError: it cannot be used.
        """
        digest = grammar.digest(engine_name())
        known = self.get(digest)
        if known is not None:
            return known
        if self._tokenizer is None:
            self._tokenizer = GrammarTokenizer(self._json(), self._rows, self._eos)
        compiled = self._tokenizer.compile(grammar)
        with self._lock:
            self._compiled[digest] = compiled
            while len(self._compiled) > self._most:
                self._compiled.popitem(last=False)
        return compiled
