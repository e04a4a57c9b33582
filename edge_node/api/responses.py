"""OpenAI's response objects, and a text as one of them or as a stream, sent at the pace of its client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from edge_node.api.errors import api_error, gone
from flexspec_mq.daemon.tasks import any_of, running
from schemas import openai

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Send

    from edge_node.api.requests import TextRequest
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.completion import Completion, End
    from edge_node.completion.generator import Figures

_JSON = "application/json"
_STREAM = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": still writing\n\n"
"""A comment, where nothing is waited for."""


def event(body: msgspec.Struct) -> bytes:
    """A server-sent event; JSON has no line break, so it is one line."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def usage(figures: Figures) -> openai.Usage:
    """`usage`, with ours in an object of its own."""
    return openai.Usage(
        prompt_tokens=figures.prompt_tokens,
        completion_tokens=figures.tokens,
        total_tokens=figures.prompt_tokens + figures.tokens,
        flexspec=msgspec.convert(figures, openai.FlexspecUsage, from_attributes=True),
    )


def name(text: Completion, wanted: TextRequest) -> str:
    """The id of an answer; the same for all who read the text."""
    return ("chatcmpl-" if wanted.chat else "cmpl-") + text.id


def whole(text: Completion, wanted: TextRequest, end: End) -> openai.ChatCompletion | openai.TextCompletion:
    """The answer to a request without `stream`, for a text that is complete."""
    took = UNSET if end.figures is None else usage(end.figures)
    if wanted.chat:
        message = openai.AssistantMessage(content=text.whole)
        answer = openai.ChatChoice(message=message, finish_reason=end.reason)
        return openai.ChatCompletion(**_head(text, wanted), choices=[answer], usage=took)
    choice = openai.TextChoice(text=text.whole, finish_reason=end.reason)
    return openai.TextCompletion(**_head(text, wanted), choices=[choice], usage=took)


class Chunks:
    """The events of one text for one reader."""

    def __init__(self, text: Completion, wanted: TextRequest) -> None:
        self._text = text
        self._wanted = wanted
        self._head = _head(text, wanted)
        self._sent = 0  # characters

    def first(self) -> bytes:
        """The event before any text."""
        return self._chunk(openai.Delta(role="assistant", content="")) if self._wanted.chat else b""

    def piece(self, piece: str) -> bytes:
        """The next part of the text."""
        more: dict[str, Any] = {}
        if self._wanted.include_origin:
            cut = self._text.origins.cut(piece, self._sent)
            more = {"flexspec": openai.Origin(list(cut))}
        self._sent += len(piece)
        return self._chunk(openai.Delta(content=piece), **more)

    def last(self, end: End) -> bytes:
        """The end of a complete text."""
        events = self._chunk(openai.Delta(), end.reason)
        if self._wanted.include_usage and end.figures is not None:
            events += self._event([], usage=usage(end.figures))
        return events + DONE

    def _chunk(self, delta: openai.Delta, reason: openai.FinishReason | None = None, **more: Any) -> bytes:
        choice: openai.ChunkChoice | openai.TextChoice
        if self._wanted.chat:
            choice = openai.ChunkChoice(delta=delta, finish_reason=reason)
        else:
            choice = openai.TextChoice(text=delta.content or "", finish_reason=reason)
        return self._event([choice], usage=None if self._wanted.include_usage else UNSET, **more)

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        kind = openai.ChatCompletionChunk if self._wanted.chat else openai.TextCompletion
        return event(kind(**self._head, choices=choices, **more))


def _head(text: Completion, wanted: TextRequest) -> dict[str, Any]:
    return {"id": name(text, wanted), "created": text.created, "model": text.version}


async def reply(
    text: Completion,
    wanted: TextRequest,
    settings: ApiSettings,
    receive: Receive,
    send: Send,
    was_read: Callable[[], None] = lambda: None,
) -> None:
    """Send a text, as one object or as a stream.

    Args:
        text: text to send.
        wanted: how.
        settings: settings of the API.
        receive: ASGI receive of the request.
        send: ASGI send of the request.
        was_read: called at the end of the text, before the client can know of it: whoever asks again finds room.

    Raises:
        ApiError: the text failed before anything was sent, or the client went away (499).
    """
    sender = _Sender(send, settings.send_timeout, was_read)
    work = _stream(text, wanted, settings, sender) if wanted.stream else _whole(text, wanted, sender)
    await _unless_gone(receive, work)


async def _whole(text: Completion, wanted: TextRequest, sender: _Sender) -> None:
    end = await text.ended()
    if end.error is not None:
        raise api_error(end.error, wanted.prompt_field)
    body = msgspec.json.encode(whole(text, wanted, end))
    await sender.start(200, _JSON, {"content-length": str(len(body)), "x-request-id": name(text, wanted)})
    await sender.body(body, more=False)


async def _stream(text: Completion, wanted: TextRequest, settings: ApiSettings, sender: _Sender) -> None:
    """The status is chosen when the first text is there, or something is waited for: what fails before has its own."""
    await text.begun()
    if text.end is not None and text.end.error is not None and not text.size:
        raise api_error(text.end.error, wanted.prompt_field)
    chunks = Chunks(text, wanted)
    await sender.start(200, _STREAM, {"cache-control": "no-cache", "x-request-id": name(text, wanted)})
    if first := chunks.first():
        await sender.body(first)
    async for piece in text.read(settings.heartbeat):
        silent = HEARTBEAT if text.waits is None else f": {text.waits}\n\n".encode()
        await sender.body(chunks.piece(piece) if piece else silent)
    end = await text.ended()
    last = chunks.last(end) if end.error is None else event(api_error(end.error).body())
    await sender.body(last, more=False)


class _Sender:
    """Sends what the client can take. uvicorn waits while its buffer is full, so that nothing piles up here.

    Args:
        patience: seconds that one chunk may take.
        before_last: called before the last part of a body.
    """

    def __init__(self, send: Send, patience: float, before_last: Callable[[], None]) -> None:
        self._send = send
        self._patience = patience
        self._before_last = before_last

    async def start(self, status: int, kind: str, headers: dict[str, str]) -> None:
        """Send status and headers."""
        named = {"content-type": kind, **headers}
        raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def body(self, data: bytes, *, more: bool = True) -> None:
        """Send a part of the body.

        Raises:
            ApiError: 499; the client does not read.
        """
        if not more:
            self._before_last()
        try:
            async with asyncio.timeout(self._patience):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise gone() from None


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the client goes away.

    Raises:
        ApiError: 499; the client went away.
    """
    async with running(work, "reply") as working, running(_disconnect(receive), "client") as watching:
        await any_of(working, watching)
        if not working.done():
            raise gone()
        working.result()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
