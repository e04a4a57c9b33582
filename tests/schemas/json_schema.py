"""Checks values against JSON Schemas, by the part of the language that our documents use."""

from __future__ import annotations

import json
import operator
from itertools import repeat
from typing import Any


def resolve(document: dict[str, Any], reference: str) -> Any:
    """Part of the document that a local reference points to."""
    assert reference.startswith("#/")
    found: Any = document
    for key in reference[2:].split("/"):
        found = found[key]
    return found


def references(schema: object) -> set[str]:
    """All ``$ref`` in a schema."""
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*(references(value) for value in schema.values()))
    if isinstance(schema, list):
        return set().union(*(references(value) for value in schema))
    return set()


TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,), "object": (dict,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
KNOWN = {
    *("title", "description", "default", "type", "enum", "anyOf", "prefixItems"),
    *("items", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength"),
    *("pattern", "contentEncoding", "properties", "required", "additionalProperties", "propertyNames"),
    *("maxProperties", "uniqueItems"),
}
BOUNDS = (
    (("minItems", "minLength", "minimum"), operator.lt),
    (("maxItems", "maxLength", "maximum"), operator.gt),
    (("exclusiveMinimum",), operator.le),
)


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], *, closed: bool = False) -> list[str]:
    """Where a value breaks a schema, for the keywords that our schemas use; others fail the test.

    With `closed`, fields that a schema does not name break it even where it allows them.
    """
    while "$ref" in schema or "allOf" in schema:  # of one reference, beside its description
        schema = resolve(root, schema.get("$ref") or schema["allOf"][0]["$ref"])
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "anyOf" in schema:
        branches = [problems(value, branch, root, closed=closed) for branch in schema["anyOf"]]
        return [] if [] in branches else branches[0]
    if "enum" in schema:
        # As JSON: in Python 0 and False are equal.
        allowed = [json.dumps(one) for one in schema["enum"]]
        return [] if json.dumps(value) in allowed else [f"{value} not in {schema['enum']}"]
    if "type" not in schema:
        return []  # anything
    if type(value) not in TYPES[schema["type"]]:  # a boolean is no integer
        return [f"{value} is no {schema['type']}"]
    size = len(value) if isinstance(value, list | str) else value
    found = [
        f"{value} breaks {bound}"
        for bounds, broken in BOUNDS
        for bound in bounds
        if bound in schema and broken(size, schema[bound])
    ]
    if isinstance(value, dict):
        found += _fields(value, schema, root, closed=closed)
    if isinstance(value, list):
        if schema.get("uniqueItems") and len({json.dumps(one) for one in value}) < len(value):
            found.append(f"{value} has one twice")
        items = schema.get("prefixItems") or schema["items"]  # of draft 07 both are called items
        each = items if isinstance(items, list) else repeat(items)
        for item, item_schema in zip(value, each, strict=False):
            found += problems(item, item_schema, root, closed=closed)
    return found


def _fields(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], *, closed: bool
) -> list[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", not closed)
    found = [f"{name} is missing" for name in schema.get("required", ()) if name not in value]
    if isinstance(others, dict):  # a map; the schema of its values
        known = {**dict.fromkeys(value, others), **known}
    elif not others:
        found += [f"{name} is not known" for name in value if name not in known]
    if len(value) > schema.get("maxProperties", len(value)):
        found.append(f"more than {schema['maxProperties']} fields")
    for name in value if "propertyNames" in schema else ():
        found += problems(name, {"type": "string", **schema["propertyNames"]}, root)
    for name in value.keys() & known.keys():
        found += problems(value[name], known[name], root, closed=closed)
    return found
