"""Which tokens may come next, by llguidance. Both sides ask; only the worker's answer decides."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.trial import LIMITS, GrammarTrial, Outcome, cleaned

if TYPE_CHECKING:
    from flexspec_mq.grammar.grammar import Grammar

    Mask = npt.NDArray[np.bool_]
    """Which token ids are allowed, bool of shape [rows]."""

_ll: Any
try:
    import llguidance as _ll
except ImportError:
    _ll = None

T = TypeVar("T")
_MASK, _TOKEN = 0.1, 0.05
"""Milliseconds of a mask, and of a token that is followed, by an ordinary grammar: three times the median."""
_AT_ONCE: Final = 8
"""Tokens of a text that are followed without a mask in between."""


class GrammarTokenizer:
    """A target's tokenizer, as grammars need it; made in 0.2 s, of 34 MB with 49,152 ids.

    Args:
        tokenizer_json: contents of its tokenizer.json.
        rows: token ids that the target has, padding included.
        eos: ids that end a text.

    Raises:
        GrammarError: llguidance is not installed, or cannot read this tokenizer.
    """

    def __init__(self, tokenizer_json: str, rows: int, eos: Sequence[int]) -> None:
        if _ll is None:
            raise GrammarError("llguidance is not installed", hint="pip install llguidance")
        self.rows, self.eos = rows, tuple(sorted(eos))
        try:
            self._tokenizer = _ll.LLTokenizer(
                tokenizer_json, n_vocab=rows, eos_token=list(self.eos), slices=_ll.LLTokenizer.json_slices()
            )
        except (ValueError, RuntimeError) as error:
            raise GrammarError(f"the tokenizer cannot be read for grammars: {error}") from error
        added = json.loads(tokenizer_json).get("added_tokens", ())
        self._trial = GrammarTrial(rows, self.eos, {token["id"]: token["content"] for token in added})

    def close(self) -> None:
        """End the process in which grammars are tried."""
        self._trial.close()

    def error_of(self, grammar: Grammar) -> str:
        """Error of a grammar; empty if it has none. Takes as long as `compile`."""
        return self._trial.outcome(grammar.source).error

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Make a grammar ready. Takes milliseconds, and up to a second, without the GIL.

        Raises:
            GrammarError: it has an error, or takes too much.
        """
        outcome = self._trial.outcome(grammar.source)
        if outcome.error:
            raise GrammarError(outcome.error, ms=outcome.ms)
        compiled = CompiledGrammar(partial(self._made, grammar.source), self, outcome)
        try:
            compiled.root()
        except GrammarError as error:  # by the target's tokens, which a trial has not
            raise GrammarError(error.message, ms=2 * outcome.ms) from error
        return compiled

    def _made(self, source: str) -> Any:
        """Llguidance's matcher, with what it finds out about its lexemes for the first mask.

        Raises:
            GrammarError: it has an error.
        """
        limits = _ll.LLParserLimits(**LIMITS)
        matcher = _ll.LLMatcher(self._tokenizer, source, log_level=0, limits=limits)
        matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarError(cleaned(matcher.get_error()))
        return matcher


class CompiledGrammar:
    """A grammar for one tokenizer, from which any number of texts are begun, on any thread.

    All copies of a matcher of llguidance's share one lexer, with its limits: what one text has it find out, the others
    need not, and what one text has it use up, the others lack. Then they go on with another one.

    Args:
        make: makes a matcher of llguidance's.
        tokenizer: whose ids texts have.
        tried: how it went when the grammar was tried.

    Attributes:
        ms: milliseconds of processor time that it took.
        size: bytes that it takes.
    """

    def __init__(self, make: Callable[[], Any], tokenizer: GrammarTokenizer, tried: Outcome) -> None:
        self._make, self._tokenizer = make, tokenizer
        self.ms, self.size = tried.ms, tried.size
        self._root: Any = None
        self._lock = Lock()

    def root(self, worn: Any = None) -> Any:
        """Llguidance's matcher that texts are copied from; another one than one whose lexer is used up."""
        with self._lock:
            if self._root is worn:
                began = time.thread_time()
                self._root = self._make()
                self.ms += 1000 * (time.thread_time() - began)
            return self._root

    def matcher(self) -> Matcher:
        """Begin a text; takes microseconds."""
        return Matcher(self, self._tokenizer)


class Matcher:
    """Position of a text in its grammar. Used on one thread at a time.

    It goes wherever the text is: forth with new tokens, and back where they turned out otherwise. Where drafts or other
    texts have used up a limit, it begins anew: a mask is what the text alone makes it, or an error.

    Args:
        grammar: grammar of the text.
        tokenizer: whose ids the text has.

    Attributes:
        ms: milliseconds of processor time until now, beyond those of an ordinary grammar.
        most: as many of these, beyond which all fails.

    Raises:
        GrammarError: of all methods, once the text is none of the grammar, or the grammar takes too much to follow.
    """

    def __init__(self, grammar: CompiledGrammar, tokenizer: GrammarTokenizer) -> None:
        self._grammar = grammar
        self._rows, self._eos = tokenizer.rows, tokenizer.eos
        self.ms, self.most = 0.0, inf
        self._root = grammar.root()
        self._matcher = self._root.deep_copy()
        self._text: list[int] = []
        self._mask: Mask | None = None  # of where it stands

    def follow(self, text: Sequence[int]) -> None:
        """Go to the end of a text of generated tokens."""
        self._twice(lambda: self._follow(text))

    def allowed(self) -> Mask:
        """Ids that may come next; where these are ends of the text only, the first of them. Not to be changed."""
        if self._mask is None:
            bits = np.frombuffer(self._ask(_MASK, self._matcher.compute_bitmask), np.uint8)
            self._mask = np.unpackbits(bits, count=self._rows, bitorder="little").view(np.bool_)
            count = int(np.count_nonzero(self._mask))
            if not count:
                raise GrammarError("the grammar allows nothing behind what is written")
            if 1 < count <= len(self._eos) and self._mask[list(self._eos)].sum() == count:
                first = int(np.argmax(self._mask))
                self._mask = np.zeros(self._rows, np.bool_)
                self._mask[first] = True
        return self._mask

    def masks(self, text: Sequence[int], draft: Sequence[int]) -> list[Mask]:
        """Masks after a text, and after each token of a draft behind it, as far as that is allowed."""
        return self._twice(lambda: self._masks(text, draft))

    def forced(self, text: Sequence[int], most: int) -> tuple[int, ...]:
        """Tokens behind a text where no other is allowed, up to and with the end of the text."""
        return self._twice(lambda: self._forced(text, most))

    def valid(self, text: Sequence[int], draft: Sequence[int]) -> int:
        """How many tokens of a draft behind a text are allowed."""
        return self._twice(lambda: self._valid(text, draft))

    def _twice(self, what: Callable[[], T]) -> T:
        try:
            return what()
        except _UsedUp:
            began = time.thread_time()
            self._root = self._grammar.root(self._root)
            self.ms += 1000 * (time.thread_time() - began)
            self._matcher = self._root.deep_copy()
            self._text.clear()
            self._mask = None
            return what()

    def _follow(self, text: Sequence[int]) -> None:
        common, most = 0, min(len(text), len(self._text))
        if self._text[:most] == list(text[:most]):
            common = most
        else:
            while self._text[common] == text[common]:
                common += 1
        if common < len(self._text):
            self._matcher.rollback(len(self._text) - common)
            del self._text[common:]
            self._mask = None
        for at in range(common, len(text), _AT_ONCE):
            if at > common:
                self.allowed()  # which has the next tokens go by limits of their own
            self._consume(text[at : at + _AT_ONCE])

    def _masks(self, text: Sequence[int], draft: Sequence[int]) -> list[Mask]:
        self._follow(text)
        masks = [self.allowed()]
        for token in draft:
            if not masks[-1][token] or token in self._eos:
                break
            self._consume([token])
            masks.append(self.allowed())
        return masks

    def _forced(self, text: Sequence[int], most: int) -> tuple[int, ...]:
        self._follow(text)
        forced: list[int] = []
        while len(forced) < most and int(np.count_nonzero(mask := self.allowed())) == 1:
            forced.append(int(np.argmax(mask)))
            if forced[-1] in self._eos:
                break
            self._consume(forced[-1:])
        return tuple(forced)

    def _valid(self, text: Sequence[int], draft: Sequence[int]) -> int:
        self._follow(text)
        return int(self._ask(_TOKEN * len(draft), self._matcher.validate_tokens, list(draft)))

    def _consume(self, tokens: Sequence[int]) -> None:
        taken = self._ask(_TOKEN * len(tokens), self._matcher.try_consume_tokens, list(tokens))
        self._text += tokens[:taken]
        self._mask = None
        if taken < len(tokens):
            self.allowed()  # tells of a limit, by which tokens are refused without a word
            raise GrammarError(f"token {len(self._text)} of the text is not allowed by its grammar")

    def _ask(self, usual: float, method: Callable[..., Any], *values: object) -> Any:
        began = time.thread_time()
        answer = method(*values)
        self.ms += max(0.0, 1000 * (time.thread_time() - began) - usual)
        if self._matcher.is_error():
            raise _UsedUp(f"the grammar cannot be followed: {cleaned(self._matcher.get_error())}")
        if self.ms > self.most:
            raise GrammarError("the grammar takes too much time to follow")
        return answer


class _UsedUp(GrammarError):
    """llguidance's matcher is of no use any more."""
