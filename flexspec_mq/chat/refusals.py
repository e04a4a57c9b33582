"""From what the API refuses to an error of ours with a hint."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from schemas.openai import Error

AGAIN = "/retry asks again"

_BY_CODE: dict[str | int | None, tuple[type[FlexSpecError], str]] = {
    "model_not_found": (UsageError, "/model lists what there is"),
    "invalid_api_key": (LinkRefused, "give the key with --api-key-file or FLEXSPEC_CHAT_API_KEY"),
    "context_length_exceeded": (UsageError, "/undo takes an exchange back, /clear begins anew"),
    "no_worker": (WorkerError, AGAIN),
    "workers_busy": (WorkerError, AGAIN),
    "too_many_texts": (WorkerError, AGAIN),
    "broker_unreachable": (LinkDown, AGAIN),
    "stopping": (LinkDown, AGAIN),
    "deadline": (TimeIsOver, "lower /max-tokens, or raise the node's --api-timeout"),
    "worker_protocol": (RemoteProtocolError, AGAIN),
}


def refused(
    failure: Error, *, status: int | None = None, retry_after: str | None = None, request: str | None = None
) -> FlexSpecError:
    """The error that a refusal is.

    Args:
        failure: as the API says it.
        status: HTTP status; None in the middle of a stream.
        retry_after: of the header of that name.
        request: its id, by which the node's log knows it.
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
        return LinkRefused, "give the key with --api-key-file or FLEXSPEC_CHAT_API_KEY"
    if status in {429, 503}:
        return WorkerError, AGAIN
    if status is not None and 400 <= status < 500:
        return UsageError, ""
    return FlexSpecError, AGAIN
