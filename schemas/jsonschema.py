"""JSON Schemas (draft 2020-12) of the messages and status documents, made from the types.

A message is an array here as on the wire, with two differences that JSON forces: token ids are arrays of
integers instead of one ``bin`` of LEB128 varints, and what is raw bytes on the wire (fingerprints, digests, keys,
signatures and what is signed) is base64.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from schemas.catalogue import Catalogue, CatalogueVersion, KeySet, Signed
from schemas.messages import Identity, Message, Prefix
from schemas.statement import Statement
from schemas.status import CatalogueStatus, EdgeStatus, VersionFigures, VersionStatus, WorkerStatus

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
STATUSES: tuple[type[msgspec.Struct], ...] = (WorkerStatus, EdgeStatus)
BODIES: tuple[type[msgspec.Struct], ...] = (KeySet, Catalogue)
"""Bodies that `Signed` holds."""
_INNER: tuple[type[msgspec.Struct], ...] = (VersionStatus, CatalogueStatus, VersionFigures)
"""Records that statuses hold."""
DOCUMENTS: tuple[type[msgspec.Struct], ...] = (*get_args(Message), *STATUSES, Signed, Statement)
"""Payloads of their own, a statement with its signature behind it."""

_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def components(ref_template: str) -> Json:
    """Schemas of all types of the wire protocol by name; see `described`."""
    return described((*DOCUMENTS, *BODIES, CatalogueVersion, *_INNER, Identity, Prefix), ref_template)


def described(kinds: Sequence[type[msgspec.Struct]], ref_template: str) -> Json:
    """Schemas of types by name, with names and meanings of their fields.

    Args:
        kinds: all of them, those that others use as well.
        ref_template: form of references, with ``{name}`` in it.
    """
    _, schemas = msgspec.json.schema_components(kinds, ref_template=ref_template)
    for kind in kinds:
        summary, meanings = _documentation(kind)
        schema = schemas[kind.__name__]
        schema["description"] = summary
        if "prefixItems" in schema:
            _name_items(kind, schema, meanings)
        for name, item in schema.get("properties", {}).items():
            _describe(item, meanings.get(name))
    for schema in schemas.values():
        schema["description"] = inspect.cleandoc(schema["description"])
    return schemas


def documents() -> dict[str, Json]:
    """Self-contained schemas by file name: one per payload, and one per body of a signed one."""
    schemas = components("#/$defs/{name}")
    return {file_name(kind): _document(kind, schemas) for kind in (*DOCUMENTS, *BODIES)}


def file_name(kind: type[msgspec.Struct]) -> str:
    """Where the schema of a payload is written."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower() + ".schema.json"


def references(schema: object) -> set[str]:
    """All ``$ref`` in a schema."""
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*(references(value) for value in schema.values()))
    if isinstance(schema, list):
        return set().union(*(references(value) for value in schema))
    return set()


def _document(kind: type[msgspec.Struct], schemas: Json) -> Json:
    schema = schemas[kind.__name__]
    used = sorted(_used(schema, schemas))
    document = {"$schema": DIALECT, **schema}
    if used:
        document["$defs"] = {name: schemas[name] for name in used}
    return document


def _used(schema: Json, schemas: Json) -> set[str]:
    """Names of the schemas that one refers to, and that those refer to."""
    own = {reference.rsplit("/", 1)[1] for reference in references(schema)}
    return own.union(*(_used(schemas[name], schemas) for name in own))


def _documentation(kind: type[msgspec.Struct]) -> tuple[str, dict[str, str]]:
    """The docstring of a type: what it says before its sections, and its attributes' meanings, inherited ones too."""
    text = inspect.cleandoc(kind.__doc__ or "")
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    base = kind.__base__
    inherits = base is not None and base is not msgspec.Struct and issubclass(base, msgspec.Struct)
    meanings = _documentation(base)[1] if base is not None and inherits else {}
    name = ""
    for line in attributes.splitlines():
        if match := _ATTRIBUTE.match(line):
            name = match[1]
            meanings[name] = match[2]
        elif line.strip():
            meanings[name] += f" {line.strip()}"
    return summary, meanings


def _name_items(kind: type[msgspec.Struct], schema: Json, meanings: dict[str, str]) -> None:
    """Give the items of an array-like type the names and meanings of its fields."""
    items = schema["prefixItems"]
    fields = msgspec.structs.fields(kind)
    if len(items) == len(fields) + 1:
        items[0] |= {"title": "type"}
    for item, field in zip(items[-len(fields) :], fields, strict=True):
        item["title"] = field.name
        _describe(item, meanings.get(field.name))


def _describe(item: Json, meaning: str | None) -> None:
    if meaning:
        item["description"] = meaning
