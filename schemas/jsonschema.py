"""JSON Schemas (draft 2020-12) of types, with names and meanings of their fields, as documents have them.

A message is an array here as on the wire, with two differences that JSON forces: token ids are arrays of
integers instead of one ``bin`` of LEB128 varints, and what is raw bytes on the wire (fingerprints, digests, keys,
signatures and what is signed) is base64.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Any

import msgspec

Json = dict[str, Any]

_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def described(kinds: Sequence[type[msgspec.Struct]]) -> Json:
    """Schemas of types by name, with names and meanings of their fields; they refer to each other as components.

    Args:
        kinds: all of them, those that others use as well.
    """
    _, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for kind in kinds:
        schema, meanings = schemas[kind.__name__], _meanings(kind)
        schema["description"] = inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:\n")[0]
        if "prefixItems" in schema:
            _name_items(kind, schema["prefixItems"])
            fields = {item["title"]: item for item in schema["prefixItems"]}
        else:
            fields = schema.get("properties", {})
        for name in fields.keys() & meanings.keys():
            fields[name]["description"] = meanings[name]
    for schema in schemas.values():
        schema["description"] = inspect.cleandoc(schema["description"])
    return schemas


def _meanings(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Meanings of a type's attributes, as docstrings have them, inherited ones too."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        name, attributes = "", inspect.cleandoc(base.__doc__ or "").partition("\n\nAttributes:\n")[2]
        for line in attributes.splitlines():
            if match := _ATTRIBUTE.match(line):
                name = match[1]
                meanings[name] = match[2]
            elif line.strip():
                meanings[name] += f" {line.strip()}"
    return meanings


def _name_items(kind: type[msgspec.Struct], items: list[Json]) -> None:
    """Give the items of an array-like type the names of its fields, and the tag in front of them its own."""
    names = [field.name for field in msgspec.structs.fields(kind)]
    if len(items) > len(names):
        names.insert(0, "type")
    for item, name in zip(items, names, strict=True):
        item["title"] = name
