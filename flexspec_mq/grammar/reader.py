"""Name and version of the library that reads grammars here, which is loaded only when it is asked for."""

from functools import cache

from flexspec_mq.errors import GrammarError
from flexspec_mq.grammar.grammar import GBNF, Grammar

_MAX_GBNF = 32_768


@cache
def engine_name() -> str:
    """Name and version of the reader of grammars here; empty if there is none."""
    try:
        import llguidance
    except ImportError:
        return ""
    name, _, version = llguidance.get_version().split()[0].partition("@")
    return f"{name} {version}"


def in_lark(grammar: Grammar) -> Grammar:
    """The same texts by a grammar in Lark, where it is in GBNF. May take some tenths of a second.

    Raises:
        GrammarError: it cannot be read, or nothing that reads GBNF is installed.
    """
    (part, *others) = grammar.parts("text")
    if (text := part.get(GBNF)) is None:
        return grammar
    if not engine_name():
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
