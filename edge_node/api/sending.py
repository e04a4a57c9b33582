"""Texts on their way to a client, as one object or as a stream, at the client's pace; it may go away at any time.

An API reads a `TextRequest`, and says by a `Form` how its texts look.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from edge_node.api.errors import ApiError, api_error, gone
from edge_node.api.settings import ApiSettings
from edge_node.completion.completion import Completion, End, Part
from edge_node.completion.options import CompletionOptions, Prompt
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import FlexSpecError
from schemas.openai import Offline

if TYPE_CHECKING:
    from starlette.types import Receive, Send

    from edge_node.completion.service import Wait

_JSON = "application/json"
_NAMES = 1000
"""Characters of the names of ignored fields at most."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
IGNORED = "x-flexspec-ignored"
"""Header: fields of the request that were ignored, though they ask for something."""


class Form(ABC):
    """An API's shape of the texts of one request, for one client. Texts are counted from 0; most requests have one.

    Args:
        texts: the texts.
        prompt: field of the request that holds the prompt.
        shaped_by: field that says the form of the answer; None where none does.

    Attributes:
        kind: content type of a stream.
        name: id of the answer; the same for all who read it.
    """

    kind: ClassVar[str] = "text/event-stream; charset=utf-8"
    name: str

    def __init__(self, texts: Sequence[Completion], prompt: str, shaped_by: str | None = None) -> None:
        self.texts = texts
        self._fields = prompt, shaped_by

    @abstractmethod
    def whole(self, ends: Sequence[End]) -> bytes:
        """The answer without a stream, where all texts are complete."""

    def first(self) -> bytes:
        """The beginning of a stream; the first text has begun."""
        return b""

    @abstractmethod
    def piece(self, at: int, piece: str) -> bytes:
        """A text goes on."""

    @abstractmethod
    def ended(self, at: int, end: End) -> bytes:
        """A text is complete."""

    def last(self, ends: Sequence[End]) -> bytes:
        """All texts are complete."""
        del ends
        return b""

    @abstractmethod
    def broken(self, error: ApiError) -> bytes:
        """A stream ends here by an error."""

    def silence(self, waits: Wait | None) -> bytes:
        """A sign of life in a stream, and whom it waits for; empty where this form has none."""
        return b": still writing\n\n" if waits is None else f": {waits}\n\n".encode()

    def failed(self, error: FlexSpecError) -> ApiError:
        """A text's error as this API tells it."""
        return api_error(error, *self._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest(ABC):
    """Texts that a client asks for, by any API.

    Attributes:
        model: a target version, or with a family what stands for one; None is the node's.
        prompt: text, token ids, or the turns of a conversation.
        asked: how they are to be written, as far as the client says.
        stream: answer with a stream.
        choices: how many texts, with seeds that follow each other.
        ignored: fields that ask for something and are ignored, as the node is lenient.
    """

    model: str | None
    prompt: Prompt
    asked: CompletionOptions
    stream: bool
    choices: int = 1
    ignored: tuple[str, ...] = ()

    @property
    def ignored_names(self) -> str:
        """Names of the ignored fields for a header or a line in a log, whatever characters the client gave them."""
        return _UNPRINTABLE.sub("?", ", ".join(self.ignored))[:_NAMES]

    @abstractmethod
    def form(self, texts: Sequence[Completion]) -> Form:
        """The texts as this API shows them."""

    def options(
        self, version: str | None, timeout: float | None = None, offline: Offline = "hold"
    ) -> CompletionOptions:
        """How the text is to be written, with what the node decides."""
        return replace(self.asked, version=version, timeout=timeout, offline=self.asked.offline or offline)


async def reply(
    texts: Sequence[Completion],
    wanted: TextRequest,
    settings: ApiSettings,
    receive: Receive,
    send: Send,
    was_read: Callable[[], None] = lambda: None,
) -> None:
    """Send texts, as one object or as a stream.

    Args:
        texts: texts to send.
        wanted: how.
        settings: settings of the API.
        receive: ASGI receive of the request.
        send: ASGI send of the request.
        was_read: called at the end of the texts, before the client can know of it: whoever asks again finds room.

    Raises:
        ApiError: a text failed before anything was sent, or the client went away (499).
    """
    form = wanted.form(texts)
    headers = {"x-request-id": form.name}
    if wanted.ignored:
        headers[IGNORED] = wanted.ignored_names
    sender = Sender(send, settings.send_timeout, was_read)
    work = _stream(form, settings, sender, headers) if wanted.stream else _whole(form, sender, headers)
    await unless_gone(receive, work)


async def _whole(form: Form, sender: Sender, headers: dict[str, str]) -> None:
    ends = [await text.ended() for text in form.texts]
    _raise_failed(form)
    body = form.whole(ends)
    await sender.start(200, _JSON, {"content-length": str(len(body)), **headers})
    await sender.body(body, more=False)


def _raise_failed(form: Form) -> None:
    for text in form.texts:
        if text.end is not None and text.end.error is not None:
            raise form.failed(text.end.error)


async def _stream(form: Form, settings: ApiSettings, sender: Sender, headers: dict[str, str]) -> None:
    """The status is chosen when the first text is there, or something is waited for: what fails before has its own."""
    await form.texts[0].begun()
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
            part = form.piece(at, news.text) if news.text else form.silence(news.waits)
        if part:
            await sender.body(part)
    ends = [text.end for text in form.texts if text.end is not None]
    error = next((end.error for end in ends if end.error is not None), None)
    await sender.body(form.last(ends) if error is None else form.broken(form.failed(error)), more=False)


async def _merged(texts: Sequence[Completion], patience: float) -> AsyncIterator[tuple[int, Part | None]]:
    """Parts of texts as they come, with the number of their text; None at its end."""
    reading = [text.read(patience) for text in texts]
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


class Sender:
    """Sends what the client can take. uvicorn waits while its buffer is full, so that nothing piles up here.

    Args:
        patience: seconds that one chunk may take.
        before_last: called before the last part of a body.
    """

    def __init__(self, send: Send, patience: float, before_last: Callable[[], None] = lambda: None) -> None:
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
