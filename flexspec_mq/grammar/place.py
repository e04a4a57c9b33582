"""Place of an error in a JSON schema: llguidance tells what is wrong, and not where."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flexspec_mq.grammar.grammar import HOLD_NAMED, HOLD_SCHEMAS, Grammar

_TRIES, _LONG_TRIES = 300, 6
"""Parts that are tried, and where each may be what takes too much."""
_LONG: Final = ("it takes more", "schema too large")
"""Beginnings of errors by a limit; a part of a schema may come to another limit first."""
_ANY_OF: Final = ("$defs", "definitions")


def place_of(schema: Mapping[str, Any], error: str, error_of: Callable[[Grammar], str]) -> str:
    """Where the smallest part of a schema is that has its error alone, as ``, at POINTER``; empty is all of it.

    Args:
        schema: a schema that cannot be compiled.
        error: the error of the schema.
        error_of: gives the error of a grammar; empty if it has none.
    """
    place, long = "", error.startswith(_LONG)
    tries = _LONG_TRIES if long else _TRIES
    shared = {key: schema[key] for key in _ANY_OF if key in schema}
    parts = list(_parts(schema))
    while parts and tries:
        (way, part), tries = parts.pop(0), tries - 1
        if not isinstance(part, dict | bool):
            same = error == "schema must be an object or boolean"
        else:
            its = error_of(Grammar.from_json_schema({**shared, **part})) if isinstance(part, dict) else ""
            same = its.startswith(_LONG) if long else its == error
        if same:
            place += way
            parts = list(_parts(part))
    return place and f", at {place}"


def _parts(schema: object) -> Iterator[tuple[str, Any]]:
    """Schemas within a schema, by their ways from it; definitions come first, as others name them."""
    if not isinstance(schema, dict):
        return
    for key in (*_ANY_OF, *HOLD_NAMED, *HOLD_SCHEMAS):
        part = schema.get(key)
        if key in HOLD_NAMED and isinstance(part, dict):
            for name, each in part.items():
                yield f"/{key}/{str(name).replace('~', '~0').replace('/', '~1')}", each
        elif isinstance(part, list):
            yield from ((f"/{key}/{number}", each) for number, each in enumerate(part))
        elif key not in HOLD_NAMED and key in schema:
            yield f"/{key}", part
