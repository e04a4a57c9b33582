"""Write the schemas: ``python -m schemas`` makes AsyncAPI of the wire protocol, and OpenAPI of the HTTP API."""

import json
from pathlib import Path

from schemas import asyncapi, openapi
from schemas.jsonschema import Json

GENERATED = Path(__file__).parent / "generated"


def generate() -> dict[str, Json]:
    """All documents by file name."""
    return {"asyncapi.json": asyncapi.document(), "openapi.json": openapi.document()}


def as_text(schema: Json) -> str:
    """How a document is written, so that equal ones are equal files."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, schema in generate().items():
        (GENERATED / name).write_text(as_text(schema), encoding="utf-8")
