"""Texts on their way to a client, as one object or as a stream, at the client's pace; it may go away at any time.

An API reads an `ApiRequest`, and says by a `Form` how its texts look.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edge_node.api.errors import ApiError, gone
from edge_node.api.forms import ApiRequest, Form
from edge_node.api.settings import ApiSettings
from edge_node.text.machine import Text
from edge_node.text.reading import Part, begun, ended, read
from flexspec_mq.daemon.tasks import any_of, running

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from edge_node.api.response_store import ResponseStore


_JSON = "application/json"
IGNORED = "x-flexspec-ignored"
"""Header: fields of the request that were ignored, though they ask for something."""
OUTBOX = "x-flexspec-outbox"
"""Header: ids of the request's texts in the outbox, separated by commas."""


async def reply(
    texts: Sequence[Text],
    wanted: ApiRequest,
    responses: ResponseStore,
    settings: ApiSettings,
    receive: Receive,
    send: Send,
    was_read: Callable[[], Awaitable[None]] | None = None,
    since: str | None = None,
) -> None:
    """Send texts, as one object or as a stream.

    Args:
        texts: texts to send.
        wanted: how.
        responses: keeps responses that later ones may go on from.
        settings: settings of the API.
        receive: ASGI receive of the request.
        send: ASGI send of the request.
        was_read: called at the end of the texts, before the client can know of it: whoever asks again finds room.
        since: id of the last event that the client has of an earlier stream.

    Raises:
        ApiError: a text failed before anything was sent, or the client went away (499).
    """
    form = wanted.form(texts, responses)
    if since is not None and wanted.stream:
        for follower, position in zip(form.followers, _positions(since, texts), strict=True):
            follower.go_on(position)
    headers = {"x-request-id": form.name}
    if wanted.ignored:
        headers[IGNORED] = wanted.ignored_names
    if kept := [text.id for text in texts if text.key is not None]:
        headers[OUTBOX] = ",".join(kept)
    sender = ResponseSender(send, settings.send_timeout, was_read)
    work = _stream(form, settings, sender, headers) if wanted.stream else _whole(form, sender, headers)
    await unless_gone(receive, work)


def _positions(since: str, texts: Sequence[Text]) -> list[int]:
    """Positions in texts that the id of an event names.

    Raises:
        ApiError: it is none of these texts.
    """
    name, _, counts = since.partition(":")
    positions = [int(count) for count in counts.split(",") if count.isdecimal() and len(count) < 10]
    if name != texts[0].id or len(positions) != len(texts):
        raise unknown_event(since)
    return positions


def unknown_event(since: str) -> ApiError:
    """A client comes back to a text that is not there."""
    what = f"the node has no text under this key with the event {since[:80]!r}"
    return ApiError(404, what, code="unknown_event", hint="without Last-Event-ID it comes from its beginning")


async def _whole(form: Form, sender: ResponseSender, headers: dict[str, str]) -> None:
    ends = [await ended(text) for text in form.texts]
    _raise_failed(form)
    body = form.whole(ends)
    await sender.start(200, _JSON, {"content-length": str(len(body)), **headers})
    await sender.body(body, more=False)


def _raise_failed(form: Form) -> None:
    for text in form.texts:
        if text.end is not None and text.end.error is not None:
            raise form.failed(text.end.error)


async def _stream(form: Form, settings: ApiSettings, sender: ResponseSender, headers: dict[str, str]) -> None:
    """Send a status by the first text or wait, or after a heartbeat of silence: what fails before has its own."""
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.heartbeat):
            await begun(form.texts[0])
    if not form.texts[0].size:
        _raise_failed(form)
    await sender.start(200, form.kind, {"cache-control": "no-cache", **headers})
    if first := form.first():
        await sender.body(first)
    async for at, news in _merged(form.texts, settings.heartbeat):
        text = form.texts[at]
        if news is None:
            if text.end is None or text.end.error is not None:
                break
            part = form.ended(at, text.end)
        else:
            part = form.news(at, news)
        if part:
            await sender.body(part)
    ends = [text.end for text in form.texts if text.end is not None]
    error = next((end.error for end in ends if end.error is not None), None)
    await sender.body(form.last(ends) if error is None else form.broken(form.failed(error)), more=False)


async def _merged(texts: Sequence[Text], patience: float) -> AsyncIterator[tuple[int, Part | None]]:
    """Parts of texts as they come, with the number of their text; None at its end."""
    reading = [read(text, patience) for text in texts]
    if len(texts) == 1:
        async for part in reading[0]:
            yield 0, part
        yield 0, None
        return
    coming = {asyncio.ensure_future(anext(parts, None)): at for at, parts in enumerate(reading)}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                at, news = coming.pop(task), task.result()
                if news is not None:
                    coming[asyncio.ensure_future(anext(reading[at], None))] = at
                yield at, news
    finally:
        for task in coming:
            task.cancel()


class ResponseSender:
    """Sends what the client can take. uvicorn waits while its buffer is full, so that nothing piles up here.

    Args:
        patience: seconds that one chunk may take.
        before_last: called before the last part of a body.
    """

    def __init__(
        self, send: Send, patience: float, before_last: Callable[[], Awaitable[None]] | None = None
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
        if not more and self._before_last is not None:
            await self._before_last()
        try:
            async with asyncio.timeout(self._patience):
                await self._send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise gone() from None


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
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
