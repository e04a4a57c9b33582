"""What the API says, read with the types that it writes with."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET

from flexspec_mq.errors import RemoteProtocolError
from schemas.openai import ChatCompletionChunk, Error, Origin, Writer

T = TypeVar("T")


class Failed(msgspec.Struct, frozen=True):
    """The error of an event, if it is one."""

    error: Error | None = None


def read(data: bytes | str, kind: type[T]) -> T:
    """Read JSON; fields that the type does not have are skipped.

    Raises:
        RemoteProtocolError: it is something else.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteProtocolError(
            f"what answers is no API of an edge node: {error}", hint="check the address after --url"
        ) from error


def content(chunk: ChatCompletionChunk) -> str:
    """Its text."""
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def pieces(chunk: ChatCompletionChunk) -> list[tuple[str, Writer | None]]:
    """Its text in pieces by who wrote it; None where the API does not say."""
    told = Origin([]) if chunk.flexspec is UNSET else chunk.flexspec
    parts, text = [piece for piece, _ in told.pieces], content(chunk)
    if "".join(parts) != text or len(told.writers) != len(parts):
        return [(text, None)]
    return list(zip(parts, told.writers, strict=True))


def reason(chunk: ChatCompletionChunk) -> str | None:
    """Why the text ended, in the event that ends it."""
    return next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), None)
