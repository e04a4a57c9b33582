"""A grammar as it travels: llguidance's source, its digest, and the makers of the usual ones. Needs no llguidance."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self, cast

import zstandard

from flexspec_mq.errors import RemoteProtocolError, UsageError
from schemas.messages import MAX_GRAMMAR

MAX_SOURCE = 1_000_000
"""Bytes of a source, unpacked."""
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is written: on one line, as chat templates write it. With free white space some models write newlines
without end."""
GBNF = "gbnf"
"""Field of a grammar that is in GBNF, as long as it has not travelled."""
_START = re.compile(r"^[ \t]*[?!]?start[ \t]*(\[[^\]\n]*\])?[ \t]*:(?!:)", re.MULTILINE)

_MERGES = {"anyOf", "oneOf", "$ref", "not", "if", "dependentSchemas"}
_OPEN = {
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "minProperties",
}
HOLD_NAMED = ("properties", "patternProperties", "$defs", "definitions")
HOLD_SCHEMAS = (
    "items", "prefixItems", "additionalProperties", "additionalItems", "contains", "anyOf", "oneOf", "allOf", "not",
    "if", "then", "else",
)  # fmt: skip
"""Keywords of JSON schema: those that merge, those that say of other properties, and those that hold schemas."""
_FORMATS = {"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
"""Formats that llguidance holds texts to."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The texts that are allowed.

    Attributes:
        source: llguidance's JSON of grammars, of which the first is the text's.
    """

    source: str

    def __post_init__(self) -> None:
        """Refuse what no open can carry.

        Raises:
            UsageError: it is too long, or half a character.
        """
        try:
            size = len(self.source.encode())
        except UnicodeEncodeError as error:
            raise UsageError(f"a grammar with half a character: {error.object[error.start]!a}") from error
        if size > MAX_SOURCE:
            raise UsageError(
                f"a grammar of {size} bytes, beyond {MAX_SOURCE}", hint="use a smaller schema, or fewer tools"
            )

    @classmethod
    def from_parts(cls, parts: Sequence[Mapping[str, Any]]) -> Self:
        """Texts of the first of several grammars, which may name others: ``@other``."""
        return cls(_compact({"grammars": parts}))

    def parts(self, name: str) -> list[dict[str, Any]]:
        """Its grammars as parts of another one, the first of them by a name."""
        first, *others = json.loads(self.source)["grammars"]
        return [{**first, "name": name}, *others]

    @classmethod
    def from_lark(cls, lark: str) -> Self:
        """Texts of a grammar in llguidance's variant of Lark, with the rule ``start``."""
        return cls.from_parts([{"lark_grammar": lark}])

    @classmethod
    def from_text(cls, grammar: str) -> Self:
        """Texts of a grammar in Lark, or in GBNF for `in_lark`."""
        return cls.from_lark(grammar) if _START.search(grammar) else cls.from_parts([{GBNF: grammar}])

    @classmethod
    def from_json_schema(cls, schema: Mapping[str, Any]) -> Self:
        """JSON on one line, its properties in the schema's order."""
        return cls.from_parts([json_part(schema)])

    @classmethod
    def from_regex(cls, regex: str) -> Self:
        """Texts that a regular expression, in Rust's syntax, matches from beginning to end."""
        return cls.from_lark(f"start: /{_escaped(regex)}/")

    @classmethod
    def from_choice(cls, choices: Sequence[str]) -> Self:
        """Any of these texts."""
        return cls.from_lark("start: " + " | ".join(json.dumps(choice) for choice in choices))

    def digest(self, engine: str) -> bytes:
        """BLAKE2b-128 of the source and of what reads it, as another version of that may read it otherwise.

        Args:
            engine: name and version, as a worker's status tells it.
        """
        return blake2b(f"{engine}\n{self.source}".encode(), digest_size=16).digest()

    def pack(self) -> bytes:
        """The source as an open carries it.

        Raises:
            UsageError: It is too long.
        """
        packed = zstandard.ZstdCompressor(level=9).compress(self.source.encode())
        if len(packed) > MAX_GRAMMAR:
            raise UsageError(
                f"a grammar of {len(packed)} bytes, compressed, beyond {MAX_GRAMMAR}",
                hint="use a smaller schema, or fewer tools",
            )
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Read what `pack` gave, which a stranger may have made.

        Raises:
            RemoteProtocolError: It is nothing that `pack` gives.
        """
        try:
            size = zstandard.frame_content_size(packed)
            if not 0 < size <= MAX_SOURCE:
                raise RemoteProtocolError(f"a grammar of {size} bytes, not of 1 to {MAX_SOURCE}")
            decompressor = zstandard.ZstdDecompressor()
            return cls(decompressor.decompress(packed, size, allow_extra_data=False).decode())
        except (zstandard.ZstdError, UnicodeDecodeError) as error:
            raise RemoteProtocolError(f"a grammar cannot be unpacked: {error}") from error


def json_part(schema: Mapping[str, Any], **more: str) -> dict[str, Any]:
    """JSON by a schema, as a part of a grammar."""
    return {**more, "json_schema": {**fitted(schema), "x-guidance": JSON_STYLE}}


def fitted(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema as it is followed: all texts of it are texts of the given one.

    Properties that a schema neither names nor allows in so many words are left out, as models make them up; schemas
    that are merged with others stay open. A format that no engine knows is an annotation, as JSON schema says.
    """
    made = json.loads(_compact(schema))
    parts: list[dict[str, Any]] = []
    within: list[Any] = [made]
    while within:
        part = within.pop()
        if isinstance(part, list):
            within += part
        elif isinstance(part, dict):
            parts.append(part)
            maps = [part[keyword] for keyword in HOLD_NAMED if isinstance(part.get(keyword), dict)]
            within += [each for some in maps for each in some.values()]
            within += [part[keyword] for keyword in HOLD_SCHEMAS if keyword in part]
    merged = any("allOf" in part or ("properties" in part and part.keys() & _MERGES) for part in parts)
    for part in parts:
        if isinstance(part.get("format"), str) and part["format"] not in _FORMATS:
            del part["format"]
        if part.get("uniqueItems") is False:
            del part["uniqueItems"]
        named, needed = part.get("properties"), part.get("required", [])
        whole = isinstance(named, dict) and isinstance(needed, list) and {*map(str, needed)} <= named.keys()
        if whole and not merged and not part.keys() & _OPEN:
            part["additionalProperties"] = False
    return cast("dict[str, Any]", made)


def _compact(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise UsageError("a schema that nests too deeply") from None


def _escaped(regex: str) -> str:
    """A regular expression as it stands between slashes."""
    out, escaped = "", False
    for character in regex:
        out += "\\/" if character == "/" and not escaped else "\\n" if character == "\n" else character
        escaped = character == "\\" and not escaped
    return out
