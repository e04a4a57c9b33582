"""The API over HTTP: the list of models, and answers as streams; refusals become errors of ours with a hint."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec

from flexspec_mq import waiting
from flexspec_mq.daemon.retry import Backoff, Waiting, retrying
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    RemoteProtocolError,
    TimeIsOver,
    UsageError,
    WorkerError,
)
from schemas.node import EVENTS, NodeEvent
from schemas.openai import (
    ChatCompletionChunk,
    ErrorBody,
    Failure,
    FlexspecPart,
    ModelList,
    Usage,
    Writer,
    unconfirmed,
)

if TYPE_CHECKING:
    from flexspec_mq.chat.settings import ChatOptions

T = TypeVar("T")

MAX_EVENT = 64 * 2**20
"""Bytes of one event; a client that lags gets all that it missed in one."""
_DONE = "[DONE]"
_BROKEN = "the connection to the API broke"
_SINCE = "last-event-id"
AGAIN = "/retry asks again"
_KEY = "give the key with --api-key-file or FLEXSPEC_CHAT_API_KEY"


class Failed(msgspec.Struct, frozen=True):
    """The error of an event, if it is one."""

    error: Failure | None = None


class NotReached(LinkDown):
    """The API is not there, or went away; asking again with the same key starts no second session."""


_BY_CODE: dict[str | int | None, tuple[type[FlexSpecError], str]] = {
    "model_not_found": (UsageError, "/model lists what there is"),
    "invalid_api_key": (LinkRefused, _KEY),
    "context_length_exceeded": (UsageError, "/undo takes an exchange back, /clear begins anew"),
    "no_worker": (WorkerError, AGAIN),
    "workers_busy": (WorkerError, AGAIN),
    "too_many_texts": (WorkerError, AGAIN),
    "broker_unreachable": (LinkDown, AGAIN),
    "stopping": (NotReached, AGAIN),
    "unknown_event": (LinkDown, AGAIN),
    "deadline": (TimeIsOver, "lower /max-tokens, or raise the node's --api-timeout"),
    "worker_protocol": (RemoteProtocolError, AGAIN),
    "not_found": (RemoteProtocolError, "an older edge node has to be updated"),
}


@dataclass
class Told:
    """All that was told of an answer so far.

    Attributes:
        text: confirmed text.
        unverified: provisional text behind it.
        version: target version that writes.
        reason: reason of its end.
        seconds: time from the request to the newest event.
        first: the same to the first text; None without any.
        usage: figures of the API.
    """

    text: str = ""
    unverified: str = ""
    version: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    first: float | None = None
    usage: Usage = field(default_factory=lambda: Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0))
    _began: float = field(default_factory=time.monotonic)

    def take(self, chunk: ChatCompletionChunk) -> list[tuple[str, Writer | None]]:
        """Take an event; its text in pieces by who wrote them, None where the API does not say."""
        own, self.seconds = chunk.flexspec or FlexspecPart(), time.monotonic() - self._began
        text = "".join(choice.delta.content or "" for choice in chunk.choices)
        self.text += text
        self.unverified = unconfirmed(self.unverified, text)
        if own.provisional:
            self.unverified = own.provisional.applied(self.unverified)
        self.version, self.usage = chunk.model or self.version, chunk.usage or self.usage
        self.reason = next((choice.finish_reason for choice in chunk.choices), None) or self.reason
        if not text:
            return []
        self.first = self.seconds if self.first is None else self.first
        told = own.pieces or []
        return [*told] if "".join(piece for piece, _ in told) == text else [(text, None)]


class ApiClient:
    """An edge node's API; made by `api_at`.

    Args:
        http: client with the key.
        url: without a path.
        patience: seconds in which to try again while it cannot be reached.
    """

    def __init__(self, http: httpx2.AsyncClient, url: str, patience: float) -> None:
        self._http = http
        self._url = url
        self._patience = patience

    async def models(self) -> list[str]:
        """Target versions that can be asked for.

        Raises:
            FlexSpecError: the API cannot be reached, or refuses.
        """
        async with _reading(await self._send("GET", "/v1/models")) as answer:
            return [model.id for model in read(await answer.aread(), ModelList).data]

    async def answer(
        self, body: dict[str, Any], key: str, on_wait: Callable[[Waiting], None]
    ) -> AsyncGenerator[ChatCompletionChunk]:
        """The events of an answer; closing the iterator, or cancelling it, stops the text up to the worker.

        It goes on behind the last event where the connection breaks, and the API is there again within the patience.

        Args:
            body: JSON object of the request, without what asks for a stream.
            key: idempotency key: asking again with the same one attaches to the text that is being written.
            on_wait: called before each wait while the API cannot be reached.

        Raises:
            FlexSpecError: the API cannot be reached, refuses, or goes away.
        """
        options = {"include_usage": True, "include_origin": True}
        asked = {**body, "stream": True, "stream_options": options}
        headers = {"idempotency-key": key}

        async def ask() -> httpx2.Response:
            return await self._send("POST", "/v1/chat/completions", json=asked, headers=headers)

        backoff = Backoff(top=waiting.RETRY_AWAITED, give_up_after=self._patience)
        try:
            while True:
                answer = await retrying(ask, what="the API", on=NotReached, backoff=backoff, on_wait=on_wait)
                before = headers.get(_SINCE)
                try:
                    async with aclosing(_events(answer)) as events:
                        async for event in events:
                            if event.data == _DONE:
                                return
                            if (error := read(event.data, Failed).error) is not None:
                                raise refused(error)
                            if event.id:
                                headers[_SINCE] = event.id
                            yield read(event.data, ChatCompletionChunk)
                except NotReached:
                    if headers.get(_SINCE) == before:  # nothing came by this connection
                        raise
        except (asyncio.CancelledError, GeneratorExit):
            await self._forget(key)
            raise

    async def _forget(self, key: str) -> None:
        """Cancel the text of a key, which the node would write on for whoever comes back."""
        with suppress(httpx2.HTTPError, OSError, TimeoutError):
            async with asyncio.timeout(waiting.CONNECT):
                await self._http.delete(f"{self._url}/v1/outbox/{key}")

    async def events(self) -> AsyncGenerator[NodeEvent]:
        """Read all that the node shows of itself, now and as it changes; kinds that are not known here are skipped.

        Raises:
            FlexSpecError: the API cannot be reached, refuses, or goes away.
        """
        silence = httpx2.Timeout(1.5 * waiting.KEEPALIVE, connect=waiting.CONNECT)
        async with aclosing(_events(await self._send("GET", "/v1/events", timeout=silence))) as events:
            async for event in events:
                if (kind := EVENTS.get(event.event)) is not None:
                    yield read(event.data, kind)

    async def _send(self, method: str, path: str, **how: Any) -> httpx2.Response:
        """Send a request; the answer's status is 200, and its body is not read yet.

        Raises:
            NotReached: nothing came.
            LinkDown: the API took the request, and was silent for too long.
            FlexSpecError: it refused.
        """
        request = self._http.build_request(method, self._url + path, **how)
        try:
            answer = await self._http.send(request, stream=True)
        except httpx2.ReadTimeout as error:
            raise LinkDown("the API took the question and then said nothing", hint=AGAIN) from error
        except (httpx2.TransportError, OSError) as error:
            raise NotReached(
                f"the API at {self._url} cannot be reached: {str(error) or type(error).__name__}",
                hint="start it with: flexspec-edge serve; or name another with --url",
            ) from error
        if answer.status_code == 200:
            return answer
        async with _reading(answer):
            body = await answer.aread()
        try:
            failure = read(body, ErrorBody).error
        except RemoteProtocolError:  # a proxy, for example, says it in its own way
            failure = Failure(message=f"what answers is no API of an edge node: {answer.reason_phrase}")
        raise refused(
            failure,
            status=answer.status_code,
            retry_after=answer.headers.get("retry-after"),
            request=answer.headers.get("x-request-id"),
        )


@asynccontextmanager
async def _reading(answer: httpx2.Response) -> AsyncIterator[httpx2.Response]:
    """Read an answer inside the block, then close it.

    Raises:
        RemoteProtocolError: it is no stream.
        LinkDown: it broke.
    """
    try:
        yield answer
    except httpx2.SSEError as error:
        raise RemoteProtocolError(
            f"the API answered with no stream: {error}", hint="check the address after --url"
        ) from error
    except httpx2.TimeoutException as error:
        raise LinkDown("the API fell silent", hint=AGAIN) from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise NotReached(_BROKEN, hint=AGAIN) from error
    finally:
        await answer.aclose()


async def _events(answer: httpx2.Response) -> AsyncGenerator[httpx2.ServerSentEvent]:
    """Read a stream that ends by its reader only; see `_reading`."""
    async with _reading(answer):
        async for event in httpx2.EventSource(answer, max_event_size=MAX_EVENT):
            yield event
    raise NotReached(_BROKEN, hint=AGAIN)


@asynccontextmanager
async def api_at(options: ChatOptions) -> AsyncIterator[ApiClient]:
    """The API that the settings name.

    Raises:
        UsageError: the key or the certificate authority cannot be used.
    """
    headers = {} if (key := options.key()) is None else {"authorization": f"Bearer {key}"}
    verify: ssl.SSLContext | bool = True
    if options.tls_ca is not None:
        try:
            verify = ssl.create_default_context(cafile=options.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--tls-ca {options.tls_ca} cannot be used: {error}") from error
    timeout = httpx2.Timeout(options.timeout, connect=waiting.CONNECT)
    # The environment's proxies are for the web; this API is on loopback, or behind an address of its own.
    async with httpx2.AsyncClient(headers=headers, timeout=timeout, verify=verify, trust_env=False) as http:
        yield ApiClient(http, options.base, options.patience)


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


def refused(
    failure: Failure, *, status: int | None = None, retry_after: str | None = None, request: str | None = None
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
    return kind(f"{failure.message or 'the API refused'} ({where})", hint=hint)


def _by_status(status: int | None) -> tuple[type[FlexSpecError], str]:
    if status in {401, 403}:
        return LinkRefused, _KEY
    if status in {429, 503}:
        return WorkerError, AGAIN
    if status is not None and 400 <= status < 500:
        return UsageError, ""
    return FlexSpecError, AGAIN
