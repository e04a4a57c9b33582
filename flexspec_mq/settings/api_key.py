"""The key of an edge node's API, for the node and for its clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def read_api_key(key: str | None, file: Path | None) -> str | None:
    """The key that settings give, itself or by a file; None if they give none.

    Raises:
        UsageError: its file cannot be read, or it cannot stand in an HTTP header.
    """
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {file} cannot be read: {error}") from error
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise UsageError("the API key is empty or not ASCII", hint="it travels in an HTTP header")
    return key
