"""Texts that a request allows, as an API takes them and as llguidance reads them: a second writing.

Nothing of the project is imported: the description is `docs/protocol.md`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_ON_ONE_LINE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Constraint:
    """Texts that are allowed.

    Attributes:
        request: JSON of its fields of a request, as vLLM names them.
        source: llguidance's JSON of grammars.
    """

    request: str
    source: str

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of a request."""
        found: dict[str, Any] = json.loads(self.request)
        return found


def by_schema(schema: Mapping[str, Any]) -> Constraint:
    """JSON that fits a schema."""
    return _structured("json", schema, {"json_schema": {**schema, "x-guidance": _ON_ONE_LINE}})


def by_regex(regex: str) -> Constraint:
    """Texts that a regular expression without slashes matches."""
    return _structured("regex", regex, {"lark_grammar": f"start: /{regex}/"})


def by_choice(choices: Sequence[str]) -> Constraint:
    """Any of some texts."""
    lark = f"start: {' | '.join(map(json.dumps, choices))}"
    return _structured("choice", list(choices), {"lark_grammar": lark})


def by_lark(lark: str) -> Constraint:
    """Texts of a grammar in Lark."""
    return _structured("grammar", lark, {"lark_grammar": lark})


def _structured(kind: str, value: object, grammar: object) -> Constraint:
    return Constraint(json.dumps({"structured_outputs": {kind: value}}), json.dumps({"grammars": [grammar]}))
