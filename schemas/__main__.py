"""Write the schemas: ``python -m schemas [--out DIR]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every document to a directory."""
    parser = argparse.ArgumentParser(
        prog="python -m schemas",
        description="Write the schemas: AsyncAPI of the wire protocol, OpenAPI of the HTTP API.",
    )
    parser.add_argument(
        "--out", type=Path, default=GENERATED, help="directory to write to (default: %(default)s)"
    )
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for name, schema in generate().items():
        (out / name).write_text(as_text(schema), encoding="utf-8")
        sys.stdout.write(f"{out / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
