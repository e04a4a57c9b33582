"""Grammars, ordinary, hostile and changed ones: each is compiled in bounded time and memory, or refused with a place.

    python -m lab.fuzz.grammars --count 10000 --seed 1

A text of each that compiles is written at random, and read again, in the tokenizer's own tokens, by masks of a fresh
matcher.
"""

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from flexspec_mq.errors import GrammarError, UsageError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.matcher import GrammarTokenizer, Matcher
from flexspec_mq.grammar.place import place_of
from flexspec_mq.grammar.trial import MEGABYTES, SECONDS
from flexspec_mq.models.default import default_model_path

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WORD: Schema = {"type": "string", "maxLength": 12}
WHOLE: Schema = {"type": "integer"}


def shape(required: str = "", /, **properties: Schema) -> Schema:
    """An object of these properties and no others; required are those named, all unless some are."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split() or list(properties),
        "additionalProperties": False,
    }


def listed(items: Schema, **more: int) -> Schema:
    """An array."""
    return {"type": "array", "items": items, **more}


def choice(*values: object) -> Schema:
    """A choice of values."""
    return {"enum": list(values)}


def call(name: str, arguments: Schema) -> Schema:
    """A call of a tool."""
    return shape(name={"const": name}, arguments=arguments)


AREA = choice("kitchen", "living room", "bedroom", "bathroom", "garage", "garden")
HOME = (
    call("HassTurnOn", shape("name", name=TEXT, area=AREA, floor=TEXT, domain=listed(TEXT), device_class=listed(WORD))),
    call("HassTurnOff", shape("name", name=TEXT, area=AREA, floor=TEXT, domain=listed(TEXT))),
    call(
        "HassLightSet",
        shape(
            "name", name=TEXT, area=AREA, color=WORD, temperature=WHOLE,
            brightness={"type": "integer", "minimum": 0, "maximum": 100},
        ),
    ),
    call("HassClimateSetTemperature", shape("temperature", temperature={"type": "number"}, area=AREA)),
    call("HassSetPosition", shape(name=TEXT, position={"type": "integer", "minimum": 0, "maximum": 100})),
    call("HassMediaSearchAndPlay", shape("search_query", search_query=TEXT, media_class=WORD, area=AREA)),
    call("HassListAddItem", shape(item=TEXT, name=TEXT)),
    call("HassStartTimer", shape("", hours=WHOLE, minutes=WHOLE, seconds=WHOLE, name=TEXT)),
    call("GetLiveContext", shape()),
)  # fmt: skip
ORDINARY: dict[str, Schema] = {
    "person": shape(name=WORD, age={"type": "integer", "minimum": 0, "maximum": 130}),
    "boolean": {"type": "boolean"},
    "any object": {"type": "object"},
    "home": {"anyOf": list(HOME)},
    "home calls": listed({"anyOf": list(HOME)}, minItems=1, maxItems=4),
    "hundred tools": {
        "anyOf": [
            call(
                f"{verb}_{thing}_{number}",
                shape("id", id=TEXT, limit=WHOLE, verbose={"type": "boolean"}, unit=choice("s", "min", "h"),
                      note={"type": "string", "description": f"What to tell about the {thing}, in a few words."}),
            )
            for number in range(2) for verb in ("get", "set", "list", "find", "drop")
            for thing in ("user", "order", "event", "ticket", "room", "device", "page", "job", "file", "route")
        ]
    },
    "calendar": shape(
        "title start", title=WORD, start={"type": "string", "format": "date-time"},
        end={"type": "string", "format": "date-time"}, guests=listed({"type": "string", "format": "email"}, maxItems=5),
    ),
    "filter": {
        "$ref": "#/$defs/clause",
        "$defs": {
            "clause": {
                "anyOf": [
                    shape(field=choice("age", "name", "city"), op=choice("=", "<", ">"), value=WORD),
                    shape(all=listed({"$ref": "#/$defs/clause"}, minItems=1, maxItems=3)),
                ]
            }
        },
    },
    "extraction": shape(people=listed(shape("name", name=WORD, role=WORD), maxItems=4), places=listed(WORD)),
    "sentiment": shape(label=choice("good", "bad"), score={"type": "number", "minimum": 0, "maximum": 1}),
    "matrix": listed(listed({"type": "number"}, minItems=3, maxItems=3), minItems=3, maxItems=3),
    "codes": listed({"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}, minItems=1, maxItems=5),
    "address": shape("street", street=WORD, zip={"type": "string", "pattern": "^[0-9]{5}$"}, land=choice("DE", "AT")),
    "nullable": shape(name={"type": ["string", "null"]}, tags={"anyOf": [listed(WORD), {"type": "null"}]}),
    "tuple": {"type": "array", "prefixItems": [WORD, WHOLE, {"type": "boolean"}], "items": False, "minItems": 3},
    "union": {"oneOf": [shape(kind={"const": "circle"}, r=WHOLE), shape(kind={"const": "box"}, w=WHOLE, h=WHOLE)]},
    "map": {"type": "object", "additionalProperties": WHOLE},
    "merged": {"allOf": [{"type": "object", "properties": {"a": WHOLE}}, {"properties": {"b": WORD}}]},
    "deep": shape(a=shape(b=shape(c=shape(d=shape(e=listed(listed(shape(f=WORD)))))))),
    "answer": shape(steps=listed(shape(thought=WORD, done={"type": "boolean"}), maxItems=6), final=WORD),
}  # fmt: skip
"""Schemas as people use them; the largest has 40 kB."""


def _nested(depth: int, around: Callable[[Any], Schema], leaf: Any) -> Any:
    for _ in range(depth):
        leaf = around(leaf)
    return leaf


def _either(number: int) -> Schema:
    return {"anyOf": [{"properties": {f"a{number}": WHOLE}}, {"properties": {f"b{number}": TEXT}}]}


HOSTILE: dict[str, Schema] = {
    "deep": _nested(60, lambda inner: shape(a=inner), WHOLE),
    "deeper": _nested(400, listed, WHOLE),
    "enum": {"enum": [f"value-{number}" for number in range(5000)]},
    "long words": {"enum": ["x" * 10_000, "y" * 10_000]},
    "many properties": {"properties": {f"p{number}": TEXT for number in range(1000)}},
    "too many properties": {"properties": {f"p{number}": TEXT for number in range(10_000)}},
    "ambiguous": {"anyOf": [listed({"type": "string", "maxLength": number}) for number in range(1, 400)]},
    "doubled": _nested(11, lambda inner: {"anyOf": [listed(inner), listed(inner, minItems=1)]}, WHOLE),
    "exponential": {"type": "string", "pattern": "^(a|aa)+.*a.{30}$"},
    "lookback": {"type": "string", "pattern": "a.{200}"},
    "repeated": {"type": "string", "pattern": "^([a-z]{1,1000}){1,1000}$"},
    "forced": {"type": "string", "pattern": "^((a{100}){100}){100}$"},
    "long": {"type": "string", "pattern": "^a{1000000}$"},
    "products": {"allOf": [_either(number) for number in range(10)]},
    "more products": {"allOf": [_either(number) for number in range(20)]},
    "patterns": {"allOf": [{"type": "string", "pattern": f"a{number}"} for number in range(40)]},
    "thousands": {"allOf": [{"type": "string", "pattern": f"a{number}"} for number in range(1500)]},
    "multiples": {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (97, 101, 103, 107)]},
    "multiple": {"type": "integer", "multipleOf": 1_000_003},
    "items": listed(WHOLE, minItems=1_000_000, maxItems=2_000_000),
    "length": {"type": "string", "minLength": 1_000_000, "maxLength": 10**30},
    "bounds": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    "cycle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "own cycle": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}},
    },
    "names": {"patternProperties": {f"^x{number}": WHOLE for number in range(200)}},
    "formats": {"allOf": [{"type": "string", "format": name} for name in ("date-time", "email", "uri")]},
    "described": {"description": "x" * 900_000, "type": "boolean"},
}
LARK: dict[str, str] = {
    "sums": 'start: e\ne: e "+" e | "(" e ")" | /[0-9]+/',
    "ambiguous": 'start: s\ns: s s | s s s | "a" | ""',
    "empty": 'start: a*\na: b*\nb: c*\nc: "x"?',
    "intersection": "start: X\nX: /.*a.{12}/ & /.*b.{13}/ & /.*c.{14}/",
    "complement": "start: X\nX: ~/(.*a.{18}.*)/",
    "repeated": 'start: ("a"{1,1000}){1,1000}',
    "exponential": 'start: a{100}\na: b{100}\nb: c{100}\nc: "x" "y"',
    "chain": "start: r0\n" + "".join(f'r{n}: r{n + 1} | r{n + 1} "a"\n' for n in range(3000)) + 'r3000: "x"',
    "rules": "start: "
    + "|".join(f"r{n}" for n in range(5000))
    + "".join(f'\nr{n}: "a{n}"' for n in range(5000)),
    "lexemes": "start: (" + "|".join(f"/[a-z]*{chr(97 + n % 26)}x{n}[a-z]*/" for n in range(200)) + ")*",
    "parentheses": "start: " + "(" * 5000 + '"a"' + ")" * 5000,
    "lazy": 'start: TEXT "{" /[a-z]+/ "}"\nTEXT[lazy]: /(.|\\n)*<call>/',
    "substring": 'start: %regex {"substring_chars": "' + "abcde" * 20_000 + '"}',
    "inside": 'start: "<a>" %json ' + json.dumps(shape(name=WORD)) + ' "</a>"',
}
_HOSTILE, _PLACED = 0.1, 0.1
"""Share of schemas that are made of hostile ones, and of errors whose place is looked for."""
REGEXES: tuple[str, ...] = (
    "[a-z]+", "(a|aa)+", ".*a.{20}", "(x+x+)+y", "[0-9]{3}-[0-9]{4}", "\\p{L}{1,500}", "a{1000000}", "(ab|cd)*",
    "(.|\\n)*", "^$", "[^a]{2,2000}b",
)  # fmt: skip
_ODD: tuple[object, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 10**6, 10**12, 2**63, 10**40, 0.1, 1e-300, 1e308, "", "a", "é\u0000", "\ud800",
    "^(a|b)*c{9}$", "a(b", "date-time", "ipv6", "nonsense", "#", "#/$defs/clause", "#/nowhere", "http://example.org/",
    [], [[]], ["a", "a"], {}, {"type": "string"}, {"type": "strin"}, {"$ref": "#"}, {"not": {}}, {"enum": []},
)  # fmt: skip
_KEYS: tuple[str, ...] = (
    "type", "properties", "required", "items", "prefixItems", "anyOf", "oneOf", "allOf", "enum", "const", "pattern",
    "format", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "multipleOf",
    "additionalProperties", "patternProperties", "minProperties", "maxProperties", "propertyNames", "$ref", "$defs",
    "not", "if", "uniqueItems", "contains", "description", "x-guidance", "unevaluatedProperties",
)  # fmt: skip


def mutant(rng: random.Random) -> tuple[str, Any]:
    """A kind of grammar, and one of it with one to four changes."""
    kind = rng.choice(("schema", "schema", "schema", "schema", "lark", "regex"))
    changes = range(rng.choice((1, 1, 2, 4)))
    if kind != "schema":
        text = rng.choice(list(LARK.values()) if kind == "lark" else REGEXES)
        for _ in changes:
            text = _changed_text(rng, text)
        return kind, text
    hostile = [seed for name, seed in HOSTILE.items() if name != "deeper"]
    seeds = hostile if rng.random() < _HOSTILE else list(ORDINARY.values())
    schema = _copy(rng.choice(seeds))
    for _ in changes:
        schema = _changed(rng, schema, seeds)
    return kind, schema


def _copy(schema: Any) -> Any:
    return json.loads(json.dumps(schema))


def _changed_text(rng: random.Random, text: str) -> str:
    start = rng.randint(0, len(text))
    stop = rng.choice((start, min(len(text), start + 1), rng.randint(start, len(text))))
    words = (
        "",
        "(",
        ")",
        "|",
        "*",
        "{1000}",
        "{2,}",
        "[a-z]",
        " & ",
        "~",
        '"',
        "/",
        "\\",
        "start",
        "\n",
        ".",
        "<|im_end|>",
    )
    piece = text[start:stop] * 50 if rng.random() < 0.2 and stop - start < 1000 else rng.choice(words)
    return text[:start] + piece + text[stop:]


def _changed(rng: random.Random, schema: Any, seeds: Sequence[Schema]) -> Any:
    """A schema with another value, key, or part of another schema at some place."""
    holders: list[Any] = [{"root": schema}]
    for holder in holders:  # grows as it goes
        values = holder.values() if isinstance(holder, dict) else holder
        holders += [value for value in values if isinstance(value, dict | list) and len(holders) < 3000]
    root, holder = holders[0], rng.choice(holders)
    if isinstance(holder, list):
        key: Any = rng.randrange(len(holder)) if holder else None
        if key is None:
            holder.append(_copy(rng.choice(_ODD)))
            return root["root"]
    else:
        key = rng.choice(list(holder)) if holder and rng.random() < 0.6 else rng.choice(_KEYS)
    old = holder.get(key) if isinstance(holder, dict) else holder[key]
    way = rng.randrange(6)
    if way == 0 and not isinstance(holder, list):
        holder.pop(key, None)
    elif way == 1:
        holder[key] = _copy(rng.choice(seeds))
    elif way == 2:
        holder[key] = [_copy(old) for _ in range(rng.choice((2, 3, 50)))]
    elif way == 3:
        holder[key] = {rng.choice(("anyOf", "allOf", "oneOf")): [old, _copy(rng.choice(seeds))]}
    elif way == 4:
        holder[key] = _nested(rng.choice((1, 5, 40)), rng.choice((listed, lambda inner: shape(a=inner))), old)
    else:
        holder[key] = _copy(rng.choice(_ODD))
    return root.get("root", {})


def grammar_of(kind: str, value: Any) -> Grammar:
    """A grammar of a kind."""
    if kind == "schema":
        return Grammar.from_json_schema(value if isinstance(value, dict) else {"allOf": [value]})
    return Grammar.from_lark(value) if kind == "lark" else Grammar.from_regex(value)


@dataclass
class Tally:
    """Outcome of many grammars.

    Attributes:
        outcomes: how many there were of each.
        compile_ms, wall_ms, step_ms: the most that one took: processor time of a compile, all of it, and of a step.
        size: the most bytes that a compiled one takes.
        placed: errors of schemas with a pointer to a part.
        faults: faults that were found, with the grammar.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    compile_ms: float = 0.0
    wall_ms: float = 0.0
    step_ms: float = 0.0
    size: int = 0
    placed: int = 0
    faults: list[str] = field(default_factory=list)


class GrammarRun:
    """Grammars compiled, and texts of them written and read again.

    Args:
        steps: tokens that are written of each.
    """

    def __init__(self, steps: int = 60) -> None:
        told = (default_model_path(lambda _line: None) / "tokenizer.json").read_text("utf-8")
        self._plain = Tokenizer.from_str(told)
        self.reader = GrammarTokenizer(told, 49_152, (0, 2))
        self.tally = Tally()
        self._steps = steps

    def try_one(self, kind: str, value: Any, rng: random.Random) -> None:
        """Compile a grammar, and write a text of it."""
        tally, began = self.tally, time.monotonic()
        try:
            grammar = grammar_of(kind, value)
            compiled = self.reader.compile(grammar)
        except UsageError as error:
            self._refused(kind, value, error, placed=rng.random() < _PLACED)
            return
        finally:
            tally.wall_ms = max(tally.wall_ms, 1000 * (time.monotonic() - began))
        tally.compile_ms, tally.size = max(tally.compile_ms, compiled.ms), max(tally.size, compiled.size)
        matcher = compiled.matcher()
        try:
            text = self._write(matcher, rng)
        except GrammarError as error:
            tally.outcomes[
                "too much to follow" if "cannot be followed" in error.message else error.message
            ] += 1
            return
        tally.outcomes["ended" if text and text[-1] in self.reader.eos else "written"] += 1
        self._read_again(kind, value, text, compiled.matcher())

    def _refused(self, kind: str, value: Any, error: UsageError, *, placed: bool) -> None:
        self.tally.outcomes["refused"] += 1
        if not error.message or "panic" in error.message or "\n" in error.message:
            self._fault(f"refused with {error.message!r}", kind, value)
        if placed and kind == "schema" and isinstance(value, dict) and isinstance(error, GrammarError):
            self.tally.placed += bool(place_of(value, error.message, self.reader.error_of))

    def _write(self, matcher: Matcher, rng: random.Random) -> list[int]:
        """Tokens at random; the end comes soon where it may."""
        text: list[int] = []
        while len(text) < self._steps:
            before = matcher.ms
            ids = np.flatnonzero(matcher.masks(text, ())[0])
            self.tally.step_ms = max(self.tally.step_ms, matcher.ms - before)
            ends = [token for token in self.reader.eos if token in ids]
            text.append(ends[0] if ends and rng.random() < 0.3 else int(rng.choice(ids)))
            if text[-1] in self.reader.eos:
                break
        return text

    def _read_again(self, kind: str, value: Any, text: list[int], fresh: Matcher) -> None:
        """A text that has ended is let through in the tokenizer's own tokens, and is JSON by a schema."""
        for at in (len(text) // 2, len(text) - 1):
            if text and not fresh.masks(text[:at], ())[0][text[at]]:
                self._fault("another mask, of a fresh matcher", kind, value)
        if not text or text[-1] not in self.reader.eos:
            return
        words = self._plain.decode(text[:-1], skip_special_tokens=False)
        own = self._plain.encode(words, add_special_tokens=False).ids
        if "\ufffd" not in words and (got := fresh.valid((), own)) < len(own):
            self._fault(f"of {words!r} only {got} tokens of {len(own)} are let through", kind, value)
        if kind == "schema" and "x-guidance" not in json.dumps(value):
            json.loads(words)

    def _fault(self, what: str, kind: str, value: Any) -> None:
        self.tally.faults.append(f"{what}: {kind} {json.dumps(value)[:2000]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    run, rng = GrammarRun(), random.Random(options.seed)
    for number in range(options.count):
        run.try_one(*mutant(rng), rng)
        if number % 1000 == 999:
            mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(number + 1, dict(run.tally.outcomes), f"{mb:.0f} MB", flush=True)
    tally = run.tally
    print(
        f"compile {tally.compile_ms:.0f} ms of {2000 * SECONDS:.0f}, {tally.size / 1e6:.0f} MB of {MEGABYTES}; "
        f"step {tally.step_ms:.0f} ms; longest wait {tally.wall_ms:.0f} ms; {tally.placed} errors with a pointer"
    )
    print(*tally.faults, sep="\n")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
