"""Checks values against the schemas of our documents, by fastjsonschema."""

from collections.abc import Callable
from functools import cache
from typing import Any

import fastjsonschema

from schemas.__main__ import generate

DOCUMENTS: dict[str, dict[str, Any]] = generate()


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


def _prepared(schema: Any, closed: bool) -> Any:
    """The same schema, with tuples as of draft 07; if it is to be closed, it allows no field that it does not name."""
    if isinstance(schema, list):
        return [_prepared(one, closed) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _prepared(value, closed) for key, value in schema.items()}
    if "prefixItems" in made:
        made |= {"items": made.pop("prefixItems"), "additionalItems": made.pop("items", True)}
    if closed and isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    return made


@cache
def _check(document: str, name: str, closed: bool) -> Callable[[Any], Any]:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENTS[document]["components"]}
    found: Callable[[Any], Any] = fastjsonschema.compile(_prepared(schema, closed))
    return found


def problem(value: Any, document: str, name: str, *, closed: bool = False) -> str:
    """Where a value breaks a schema of a document; empty where it does not.

    With `closed`, fields that a schema does not name break it even where it allows them.
    """
    try:
        _check(document, name, closed)(value)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error)
    return ""
