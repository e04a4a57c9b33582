"""Texts that a request allows, as an API takes them and as llguidance reads them: a second writing.

Nothing of the project is imported: the description is `docs/protocol.md`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.bench.questions import read_tools

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


_NAMED = {"type": "string", "maxLength": 24}
OF_WORDS = (
    by_regex("( [a-e][a-z]{2}){3,40}"),
    by_regex(" ?(aba|ebi)[^,]*(, [a-z ]+)*"),
    by_choice(["aba", " ebi ada", " ebi ogu ono usi ape"]),
    by_lark('start: (" aba" | " ebi") /( [aeiou][bdg][aeiou])+/ (" obo" | " ibi")'),
    by_schema(
        {
            "type": "object",
            "properties": {
                "name": _NAMED,
                "on": {"type": "boolean"},
                "many": {"type": "array", "items": {"enum": ["ada", "obo", "igi"]}, "maxItems": 4},
                "any": {"anyOf": [{"type": "integer"}, {"type": "null"}, _NAMED]},
            },
            "required": ["name", "on", "many"],
            "additionalProperties": False,
        }
    ),
)
"""Constraints that the tiny target meets in its words, some of them only character by character."""


def of_tools() -> list[Constraint]:
    """The arguments of each tool, and a call of any of four."""
    tools = read_tools()
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools[:4]
    ]
    return [*(by_schema(tool.parameters) for tool in tools), by_schema({"anyOf": calls})]
