"""Constraints of texts that are compared with the reference's."""

from lab.bench.calls import read_tools
from lab.benchmarks.exact.grammars import Constraint, by_choice, by_lark, by_regex, by_schema

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
