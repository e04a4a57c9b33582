"""Which tokens may come next, by llguidance. Both sides ask; only the worker's answer decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.grammar import GBNF

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from flexspec_mq.grammar.grammar import Grammar

    Mask = npt.NDArray[np.bool_]
    """Which token ids are allowed, bool of shape [rows]."""

_ll: Any
try:
    import llguidance as _ll
except ImportError:
    _ll = None

_LIMITS = {"verbose_errors": False}
_MAX_GBNF = 32_768


def engine_name() -> str:
    """Name and version of what reads grammars here; empty if nothing does."""
    if _ll is None:
        return ""
    name, _, version = _ll.get_version().split()[0].partition("@")
    return f"{name} {version}"


def in_lark(grammar: Grammar) -> Grammar:
    """The same texts by a grammar in Lark, where it is in GBNF. May take some tenths of a second.

    Raises:
        GrammarError: it cannot be read, or nothing that reads GBNF is installed.
    """
    (part, *others) = grammar.parts("text")
    if (text := part.get(GBNF)) is None:
        return grammar
    if _ll is None:
        raise GrammarError(
            "a grammar in GBNF needs llguidance here", hint="pip install llguidance, or give it in Lark"
        )
    if len(text) > _MAX_GBNF:
        raise GrammarError(
            f"a grammar in GBNF of {len(text)} characters, beyond {_MAX_GBNF}", hint="give it in Lark"
        )
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        return type(grammar).from_parts([{"lark_grammar": str(gbnf_to_lark(text))}, *others])
    except Exception as error:  # it raises Exception itself for rules that are missing
        raise GrammarError(f"it is neither Lark with a rule `start` nor GBNF: {error}") from error


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

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Make a grammar ready. Takes milliseconds, and up to some hundred of them, without the GIL.

        Raises:
            GrammarError: it has an error, or is too large.
        """
        limits = _ll.LLParserLimits(**_LIMITS)
        matcher = _ll.LLMatcher(self._tokenizer, grammar.source, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(matcher.get_error())
        return CompiledGrammar(matcher, self)


class CompiledGrammar:
    """A grammar for one tokenizer, from which any number of texts are begun, on any thread."""

    def __init__(self, pristine: Any, tokenizer: GrammarTokenizer) -> None:
        self._pristine = pristine
        self._tokenizer = tokenizer

    def matcher(self) -> Matcher:
        """Begin a text; takes microseconds."""
        return Matcher(self._pristine.deep_copy(), self._tokenizer)


class Matcher:
    """Position of a text in its grammar. Used on one thread at a time.

    It goes wherever the text is: forth with new tokens, and back where they turned out otherwise.

    Raises:
        GrammarError: of all methods, once the text is none of the grammar, or the grammar takes too much to follow.
    """

    def __init__(self, matcher: Any, tokenizer: GrammarTokenizer) -> None:
        self._matcher = matcher
        self._rows, self._eos = tokenizer.rows, tokenizer.eos
        self._text: list[int] = []
        self._mask: Mask | None = None  # of where it stands

    def follow(self, text: Sequence[int]) -> None:
        """Go to the end of a text of generated tokens."""
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
        if common < len(text):
            self._consume(text[common:])
        if len(self._text) < len(text):
            self._check()
            raise GrammarError(f"token {len(self._text)} of the text is not allowed by its grammar")

    def allowed(self) -> Mask:
        """Ids that may come next; where these are ends of the text only, the first of them. Not to be changed."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._check()
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
        self.follow(text)
        masks = [self.allowed()]
        for token in draft:
            if not masks[-1][token] or token in self._eos:
                break
            self._consume([token])
            masks.append(self.allowed())
        return masks

    def forced(self, text: Sequence[int], most: int) -> tuple[int, ...]:
        """Tokens behind a text where no other is allowed, up to and with the end of the text."""
        self.follow(text)
        forced: list[int] = []
        while len(forced) < most and int(np.count_nonzero(mask := self.allowed())) == 1:
            forced.append(int(np.argmax(mask)))
            if forced[-1] in self._eos:
                break
            self._consume(forced[-1:])
        return tuple(forced)

    def valid(self, text: Sequence[int], draft: Sequence[int]) -> int:
        """How many tokens of a draft behind a text are allowed."""
        self.follow(text)
        return int(self._matcher.validate_tokens(list(draft)))

    def _consume(self, tokens: Sequence[int]) -> None:
        taken = self._matcher.try_consume_tokens(list(tokens))
        self._text += tokens[:taken]
        self._mask = None

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(self._matcher.get_error())
