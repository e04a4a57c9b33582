"""Checks values against JSON Schemas, by the part of the language that our documents use."""

from __future__ import annotations

import json
from typing import Any


def resolve(document: dict[str, Any], reference: str) -> Any:
    """What a local reference points to."""
    assert reference.startswith("#/")
    found: Any = document
    for key in reference[2:].split("/"):
        found = found[key]
    return found


TYPES: dict[str, tuple[type, ...]] = {
    "array": (list,),
    "object": (dict,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    *("$schema", "$defs", "$ref", "title", "description", "default", "type", "enum", "anyOf", "prefixItems"),
    *("items", "minItems", "maxItems", "minimum", "maximum", "exclusiveMinimum", "minLength", "maxLength"),
    *("pattern", "contentEncoding", "properties", "required", "additionalProperties", "propertyNames"),
    *("maxProperties", "uniqueItems"),
}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any], *, closed: bool = False) -> list[str]:
    """Where a value breaks a schema, for the keywords that our schemas use; others fail the test.

    With `closed`, fields that a schema does not name break it even where it allows them.
    """
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return problems(value, resolve(root, schema["$ref"]), root, closed=closed)
    if "anyOf" in schema:
        branches = [problems(value, branch, root, closed=closed) for branch in schema["anyOf"]]
        return [] if [] in branches else branches[0]
    if "enum" in schema:
        # As JSON: in Python 0 and False are equal.
        allowed = [json.dumps(one) for one in schema["enum"]]
        return [] if json.dumps(value) in allowed else [f"{value} not in {schema['enum']}"]
    if not set(schema) & {"type"}:
        return []  # anything
    right_type = isinstance(value, TYPES[schema["type"]]) and (
        schema["type"] == "boolean" or not isinstance(value, bool)
    )
    if not right_type:
        return [f"{value} is no {schema['type']}"]
    size = len(value) if isinstance(value, list | str) else value
    found = [
        f"{value} breaks {low}"
        for low in ("minItems", "minLength", "minimum")
        if low in schema and size < schema[low]
    ]
    found += [
        f"{value} breaks {high}"
        for high in ("maxItems", "maxLength", "maximum")
        if high in schema and size > schema[high]
    ]
    if "exclusiveMinimum" in schema and size <= schema["exclusiveMinimum"]:
        found.append(f"{value} breaks exclusiveMinimum")
    if isinstance(value, dict):
        found += _fields(value, schema, root, closed=closed)
    if isinstance(value, list):
        if schema.get("uniqueItems") and len({json.dumps(one) for one in value}) < len(value):
            found.append(f"{value} has one twice")
        items = schema.get("prefixItems") or [schema["items"]] * len(value)
        for item, item_schema in zip(value, items, strict=False):
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
