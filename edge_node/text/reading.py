"""Readers of a text: what comes, and how far a client has it, in which form whatsoever it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from edge_node.text.machine import End, Text
from flexspec_mq.grammar.tools import CallArguments, CallBegins, CallEnds, CallEvent, CallParser, Content
from flexspec_mq.protocol.digest import common_length
from schemas.openai import Provisional, unconfirmed

if TYPE_CHECKING:
    from edge_node.text.service import Wait


class Part(NamedTuple):
    """News of a text for one reader.

    Attributes:
        text: confirmed characters behind those that it has, maybe none.
        provisional: provisional text behind these.
        waits: whom the text waits for.
    """

    text: str
    provisional: str
    waits: Wait | None


async def begun(text: Text) -> None:
    """Wait until there is something to show or to tell, or the text is over."""
    with _news(text) as news:
        while text.end is None and not (text.size or text.provisional) and text.waits is None:
            await news.wait()
            news.clear()


async def ended(text: Text) -> End:
    """Wait for the end."""
    with _news(text) as news:
        while text.end is None:
            await news.wait()
            news.clear()
    return text.end


async def read(text: Text, patience: float) -> AsyncIterator[Part]:
    """The text as it comes, until its end; a reader that lags behind gets all that it missed at once.

    Args:
        text: text to read.
        patience: seconds of silence after which a part without news comes.
    """
    at, told = 0, Part("", "", None)
    with _news(text) as news:
        while True:
            news.clear()
            more, at = text.since(at)
            part = Part(more, text.provisional, text.waits)
            if part.text or part[1:] != told[1:]:
                yield (told := part)
            elif text.end is not None:
                return
            else:
                try:
                    async with asyncio.timeout(patience):
                        await news.wait()
                except TimeoutError:
                    yield part


@contextmanager
def _news(text: Text) -> Iterator[asyncio.Event]:
    """Set at each change of a text."""
    news = asyncio.Event()
    text.watchers.add(news.set)
    try:
        yield news
    finally:
        text.watchers.discard(news.set)


class TextFollower:
    """A client that follows a text.

    Its position is how many characters of content and of calls' arguments it has, and how many beginnings and ends of
    calls. It is the same however the text came, so that a client can go on from there.

    Args:
        text: text that it follows.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._parser: CallParser | None = None
        self._read = self._since = 0
        self._provisional: str | None = ""  # as the client has it; None: it is to be told anew
        self._waits: Wait | None = None

    @property
    def position(self) -> int:
        """The position of the client."""
        return max(self._read, self._since)

    @property
    def parser(self) -> CallParser:
        """Reader of the text's calls."""
        self._parser = self._parser or self._text.parser()
        return self._parser

    @property
    def sees_provisional(self) -> bool:
        """Whether the client is told of provisional text."""
        return self._text.spec.offline == "provisional"

    def whole(self, end: End) -> list[CallEvent]:
        """All events of a text that is complete."""
        return [event for event, _ in (*self.push(self._text.whole), *self.finish(end))]

    def left(self, end: End) -> Provisional | None:
        """Provisional text behind a text that ended with it."""
        return (
            Provisional(0, self.parser.ahead(self._text.provisional)) if end.reason == "provisional" else None
        )

    def go_on(self, since: int) -> None:
        """Take a client that has had the text up to a position."""
        self._since, self._provisional = since, None

    def push(self, piece: str) -> Iterator[tuple[CallEvent, bool]]:
        """Events that more confirmed text makes certain, each with whether it is new to the client."""
        if piece:
            yield from self._told(self.parser.push(piece))

    def finish(self, end: End) -> Iterator[tuple[CallEvent, bool]]:
        """The rest of the text; before unverified text it may yet become a call, and is shown as a part of that."""
        if end.reason != "provisional":
            yield from self._told(self.parser.finish())

    def change(self, provisional: str) -> Provisional | None:
        """The change of the content that stands behind what is confirmed; None without one, and in other modes.

        A client that has more confirmed text than the node, which lost it at its end, is told of none before the node
        has that again.
        """
        if not self.sees_provisional or self._read < self._since:
            return None
        parser = self._parser or self._text.parser()  # until it has begun, another target may take it
        now, before = parser.ahead(provisional), self._provisional
        self._provisional = now
        if now == before:
            return None
        same = common_length(now, before or "")
        return Provisional(same, now[same:])

    def begins_to_wait(self, waits: Wait | None) -> bool:
        """Whether the text waits for somebody since the last look."""
        before, self._waits = self._waits, waits
        return waits not in (None, before)

    def _told(self, events: list[CallEvent]) -> Iterator[tuple[CallEvent, bool]]:
        for event in events:
            for part in self._cut(event):
                self._read += _size(part)
                if isinstance(part, Content):
                    self._eat(part.text)
                yield part, self._read > self._since

    def _cut(self, event: CallEvent) -> Sequence[CallEvent]:
        """The part of an event that the client has, and the rest."""
        known = self._since - self._read
        if isinstance(event, CallBegins | CallEnds) or not 0 < known < len(event.text):
            return (event,)
        rest = event._replace(text=event.text[known:])
        rest = rest if isinstance(rest, CallArguments) else rest._replace(at=rest.at + known)
        return event._replace(text=event.text[:known]), rest

    def _eat(self, confirmed: str) -> None:
        before = self._provisional
        if before is not None:
            agrees = confirmed.startswith(before) or before.startswith(confirmed)
            self._provisional = unconfirmed(before, confirmed) if agrees else None


def _size(event: CallEvent) -> int:
    return 1 if isinstance(event, CallBegins | CallEnds) else len(event.text)
