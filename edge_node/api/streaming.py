"""Sends a text to one client, at its pace, for as long as it is there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from edge_node.api.errors import api_error
from edge_node.api.request_body import gone
from edge_node.api.responses import HEARTBEAT, Chunks, event, name, whole
from flexspec_mq.daemon.tasks import any_of, running

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.types import Receive, Send

    from edge_node.api.requests import TextRequest
    from edge_node.api.settings import ApiSettings
    from edge_node.completion.completion import Completion

_JSON = "application/json"
_STREAM = "text/event-stream; charset=utf-8"


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
    """The status is chosen when the first text is there, so that what fails before has a status of its own."""
    await text.begun()
    if text.end is not None and text.end.error is not None and not text.size:
        raise api_error(text.end.error, wanted.prompt_field)
    chunks = Chunks(text, wanted)
    await sender.start(200, _STREAM, {"cache-control": "no-cache", "x-request-id": name(text, wanted)})
    if first := chunks.first():
        await sender.body(first)
    async for piece in text.read(settings.heartbeat):
        await sender.body(chunks.piece(piece) if piece else HEARTBEAT)
    end = await text.ended()
    last = chunks.last(end) if end.error is None else event(api_error(end.error).body())
    await sender.body(last, more=False)


class _Sender:
    """Sends what the client can take. uvicorn waits while its buffer is full, so that nothing piles up here.

    Args:
        patience: seconds that one chunk may take; None is no bound.
        before_last: called before the last part of a body.
    """

    def __init__(
        self, send: Send, patience: float | None, before_last: Callable[[], None] = lambda: None
    ) -> None:
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
