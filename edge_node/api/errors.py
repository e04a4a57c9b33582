"""Errors in OpenAI's shape, and which HTTP status each error of ours gets."""

from __future__ import annotations

from flexspec_mq.errors import (
    Cancelled,
    FlexSpecError,
    LinkError,
    RemoteProtocolError,
    UsageError,
    WorkerError,
)
from schemas.openai import Error, ErrorBody

CLIENT_GONE = 499
"""Not sent to anybody; in metrics only."""


class ApiError(FlexSpecError):
    """What a client of the API is told.

    Attributes:
        status: HTTP status.
        code: for programs; stable.
        param: field of the request that is to blame.
        retry_after: seconds after which to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> ErrorBody:
        """The object that OpenAI's clients expect."""
        said = f"{self.message} ({self.hint})" if self.hint else self.message
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return ErrorBody(Error(message=said, type=kind, param=self.param, code=self.code))

    def headers(self) -> dict[str, str]:
        """Those that belong to it."""
        found = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


_KINDS = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}


def bad(param: str | None, message: str, *, code: str | None = "invalid_value") -> ApiError:
    """A request that cannot be done, by the field that is to blame."""
    return ApiError(400, message, param=param, code=code)


def stopping() -> ApiError:
    """The edge node is about to end."""
    return ApiError(503, "the edge node is stopping", code="stopping", retry_after=5)


def unreachable(patience: float) -> ApiError:
    """There is no link to the broker."""
    return ApiError(
        503,
        f"the edge node has no link to its broker, and did not get one within {patience:g} s",
        code="broker_unreachable",
        retry_after=5,
    )


def deadline(seconds: float) -> ApiError:
    """A text took too long."""
    return ApiError(504, f"the text was not complete after {seconds:g} s", code="deadline")


def api_error(error: FlexSpecError, *, busy: bool = False) -> ApiError:
    """What a client is told about an error of ours.

    Args:
        error: what made a text fail.
        busy: workers said that they are full, and none took the text.
    """
    if isinstance(error, ApiError):
        return error
    status, code, retry_after = 500, "internal", None
    if isinstance(error, UsageError):
        status, code = 400, "invalid_value"
    elif isinstance(error, WorkerError) and busy:
        status, code, retry_after = 429, "workers_busy", 5
    elif isinstance(error, WorkerError):
        status, code, retry_after = 503, "no_worker", 5
    elif isinstance(error, LinkError):
        status, code, retry_after = 503, "broker_unreachable", 5
    elif isinstance(error, RemoteProtocolError):
        status, code = 502, "worker_protocol"
    elif isinstance(error, Cancelled):
        return stopping()
    return ApiError(status, error.message, code=code, retry_after=retry_after, hint=error.hint)
