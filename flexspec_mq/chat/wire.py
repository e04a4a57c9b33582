"""Answers of the API, read with the types that it writes with; refusals become errors of ours with a hint."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET

from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    RemoteProtocolError,
    TimeIsOver,
    UsageError,
    WorkerError,
)
from flexspec_mq.terminal.printable import printable
from schemas.openai import ChatCompletionChunk, Error, Origin, Writer

T = TypeVar("T")

AGAIN = "/retry asks again"
_KEY = "give the key with --api-key-file or FLEXSPEC_CHAT_API_KEY"
_BY_CODE: dict[str | int | None, tuple[type[FlexSpecError], str]] = {
    "model_not_found": (UsageError, "/model lists what there is"),
    "invalid_api_key": (LinkRefused, _KEY),
    "context_length_exceeded": (UsageError, "/undo takes an exchange back, /clear begins anew"),
    "no_worker": (WorkerError, AGAIN),
    "workers_busy": (WorkerError, AGAIN),
    "too_many_texts": (WorkerError, AGAIN),
    "broker_unreachable": (LinkDown, AGAIN),
    "stopping": (LinkDown, AGAIN),
    "deadline": (TimeIsOver, "lower /max-tokens, or raise the node's --api-timeout"),
    "worker_protocol": (RemoteProtocolError, AGAIN),
}


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
    """The text of a chunk."""
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def pieces(chunk: ChatCompletionChunk) -> list[tuple[str, Writer | None]]:
    """The text of a chunk in pieces by who wrote them; None where the API does not say."""
    told = Origin([]) if chunk.flexspec is UNSET else chunk.flexspec
    parts, text = [piece for piece, _ in told.pieces], content(chunk)
    if "".join(parts) != text or len(told.writers) != len(parts):
        return [(text, None)]
    return list(zip(parts, told.writers, strict=True))


def refused(
    failure: Error, *, status: int | None = None, retry_after: str | None = None, request: str | None = None
) -> FlexSpecError:
    """The error that a refusal is.

    Args:
        failure: the API's own words.
        status: HTTP status; None in the middle of a stream.
        retry_after: header of that name.
        request: id by which the node's log knows the request.
    """
    kind, hint = _BY_CODE.get(failure.code) or _by_status(status)
    if retry_after:
        seconds = f"{retry_after} s" if retry_after.isdigit() else retry_after
        hint = f"{hint or AGAIN}; the API says: in {seconds}"
    where = "in the middle of the answer" if status is None else f"HTTP {status}"
    if request:
        where += f", request {request}"
    # It may end in front of a terminal by ways that do not know where it comes from.
    return kind(
        f"{printable(failure.message) or 'the API refused'} ({printable(where)})", hint=printable(hint)
    )


def _by_status(status: int | None) -> tuple[type[FlexSpecError], str]:
    if status in {401, 403}:
        return LinkRefused, _KEY
    if status in {429, 503}:
        return WorkerError, AGAIN
    if status is not None and 400 <= status < 500:
        return UsageError, ""
    return FlexSpecError, AGAIN
