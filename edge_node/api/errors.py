"""Errors in the shape of each API, and which HTTP status each error of ours gets."""

import msgspec
from starlette.responses import Response

from edge_node.fleet.models import NoCatalogue
from edge_node.limits import DataSpent
from edge_node.outbox.entries import OutboxError, OutboxFull
from edge_node.text.encoding import PromptError, PromptTooLong, ToolError
from edge_node.text.machine import TextDropped
from edge_node.text.texts import KeyReused, TooManyTexts
from flexspec_mq.catalogue.naming import NoSuchVersion
from flexspec_mq.errors import (
    Cancelled,
    FlexSpecError,
    GrammarError,
    LinkError,
    RemoteProtocolError,
    ServerRefused,
    TimeIsOver,
    UsageError,
    WorkerError,
    WorkersBusy,
)
from schemas.openai import ErrorBody, Failure

CLIENT_GONE = 499
"""Not sent to anybody; in metrics only."""


class ApiError(FlexSpecError):
    """An error as a client of the API sees it.

    Attributes:
        status: HTTP status.
        code: a stable word for programs.
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

    @property
    def words(self) -> str:
        """Event and advice in one line."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def body(self) -> ErrorBody:
        """The object that OpenAI's clients expect."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return ErrorBody(Failure(message=self.words, type=kind, param=self.param, code=self.code))

    def response(self, path: str) -> Response:
        """The answer in place of one that cannot be given, in the form of the path's API."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        if self.code == "server_refused":
            headers["x-should-retry"] = "false"  # OpenAI's clients ask after any other 502 twice more
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        body = {"error": self.words} if path.startswith("/api/") else self.body()  # Ollama's, and OpenAI's
        return Response(msgspec.json.encode(body), self.status, headers, "application/json")


_KINDS = {401: "authentication_error", 429: "rate_limit_error", 504: "timeout_error"}


def bad(param: str | None, message: str, *, code: str | None = "invalid_value", hint: str = "") -> ApiError:
    """A request that cannot be done, by the field that is to blame."""
    return ApiError(400, message, param=param, code=code, hint=hint)


def gone() -> ApiError:
    """The client went away. Nobody is told; it counts in the metrics."""
    return ApiError(CLIENT_GONE, "the client went away", code="client_gone")


# The first that fits: status, code, and seconds after which to ask again.
_SAID: dict[type[FlexSpecError], tuple[int, str, int | None]] = {
    PromptTooLong: (400, "context_length_exceeded", None),
    NoSuchVersion: (404, "model_not_found", None),
    UsageError: (400, "invalid_value", None),
    KeyReused: (422, "idempotency_key_reused", None),
    DataSpent: (429, "daily_data", None),
    TooManyTexts: (429, "too_many_texts", None),
    WorkersBusy: (429, "workers_busy", 5),
    NoCatalogue: (503, "no_catalogue", 5),
    WorkerError: (503, "no_worker", 5),
    ServerRefused: (502, "server_refused", None),
    LinkError: (503, "broker_unreachable", 5),
    RemoteProtocolError: (502, "worker_protocol", None),
    TimeIsOver: (504, "deadline", None),
    TextDropped: (410, "dropped", None),
    Cancelled: (503, "stopping", 5),
    OutboxFull: (503, "outbox_full", None),
    OutboxError: (503, "outbox", None),
    FlexSpecError: (500, "internal", None),
}


def api_error(error: FlexSpecError, prompt: str | None = None, shaped_by: str | None = None) -> ApiError:
    """The answer to a client about an error of ours.

    Args:
        error: error of a text.
        prompt: field that holds the prompt, for errors of that.
        shaped_by: field that says the form of the answer.
    """
    if isinstance(error, ApiError):
        return error
    status, code, retry_after = next(answer for kind, answer in _SAID.items() if isinstance(error, kind))
    if isinstance(error, TooManyTexts | DataSpent):
        retry_after = error.retry_after
    blamed = {PromptError: prompt, NoSuchVersion: "model", ToolError: "tools", GrammarError: shaped_by}
    param = next((field for kind, field in blamed.items() if isinstance(error, kind)), None)
    return ApiError(status, error.message, code=code, param=param, retry_after=retry_after, hint=error.hint)
