"""Shapes of texts: what an API reads, and how its answers look, whole or as a stream."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from edge_node.api.errors import ApiError, api_error
from edge_node.completion.completion import Completion, End, Part
from edge_node.completion.options import CompletionOptions, Prompt
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.grammar.tools import CallArguments, CallBegins, CallEnds, CallEvent, CallParser, Content
from flexspec_mq.protocol.digest import common_length
from schemas.openai import Offline, Provisional, unconfirmed

if TYPE_CHECKING:
    from edge_node.completion.service import Wait

_NAMES = 1000
"""Characters of the names of ignored fields at most."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Form(ABC):
    """An API's shape of the texts of one request, for one client. Texts are counted from 0; most requests have one.

    A stream is at a position in each text: how many characters of content and of calls' arguments its client has, and
    how many beginnings and ends of calls. It is the same however the text came, so that a client can go on from there.

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
        self._since: Sequence[int] = [0] * len(texts)
        self._told = [0] * len(texts)
        self._parsers: dict[int, CallParser] = {}
        self._waits: dict[int, Wait | None] = {}
        self._provisional: list[str | None] = [""] * len(texts)  # as the client has it; None: tell it anew

    @abstractmethod
    def whole(self, ends: Sequence[End]) -> bytes:
        """The answer without a stream, where all texts are complete."""

    def first(self) -> bytes:
        """The beginning of a stream; the first text has begun."""
        return b""

    @abstractmethod
    def told(self, at: int, event: CallEvent) -> bytes:
        """A text goes on."""

    def changed(self, at: int, change: Provisional) -> bytes:
        """Another provisional text stands behind a text."""
        del at, change
        return b""

    @abstractmethod
    def over(self, at: int, end: End) -> bytes:
        """A text is complete."""

    def last(self, ends: Sequence[End]) -> bytes:
        """All texts are complete."""
        del ends
        return b""

    @abstractmethod
    def broken(self, error: ApiError) -> bytes:
        """A stream ends here by an error."""

    def silence(self, at: int, waits: Wait | None) -> bytes:
        """A sign of life in a stream, and whom a text waits for; empty where this form has none."""
        del at
        return b": still writing\n\n" if waits is None else f": {waits}\n\n".encode()

    def failed(self, error: FlexSpecError) -> ApiError:
        """A text's error as this API tells it."""
        return api_error(error, *self._fields)

    def go_on(self, since: Sequence[int]) -> None:
        """Leave out what the client has already, up to these positions."""
        self._since, self._provisional = since, [None] * len(self.texts)

    def news(self, at: int, part: Part) -> bytes:
        """A text's news, or a sign of life."""
        told = self._events(at, self.parser(at).push(part.text)) if part.text else b""
        told += self._changed(at, part.provisional)
        lives = bool(part.text or told) and part.waits in (None, self._waits.get(at))
        self._waits[at] = part.waits
        return told if lives else told + self.silence(at, part.waits)

    def ended(self, at: int, end: End) -> bytes:
        """The rest of a text that is complete, and how it ended."""
        return self._events(at, self.rest(at, end)) + self.over(at, end)

    def rest(self, at: int, end: End) -> list[CallEvent]:
        """The rest of a text; before unverified text it may yet become a call, and is shown as a part of that."""
        return [] if end.reason == "provisional" else self.parser(at).finish()

    def parser(self, at: int) -> CallParser:
        """Reader of a text's calls."""
        if at not in self._parsers:
            self._parsers[at] = self.texts[at].parser()
        return self._parsers[at]

    def provisional(self, at: int) -> bool:
        """Whether the client is told of provisional text."""
        return self.texts[at].options.offline == "provisional"

    @property
    def mark(self) -> bytes:
        """The line by which a server-sent event names the stream's position; none where nobody could come back."""
        text, positions = self.texts[0], map(max, self._told, self._since)
        return b"" if text.key is None else f"id: {text.id}:{','.join(map(str, positions))}\n".encode()

    def _events(self, at: int, events: Sequence[CallEvent]) -> bytes:
        return b"".join(self._event_from(at, event) for event in events)

    def _event_from(self, at: int, event: CallEvent) -> bytes:
        """Tell of an event, or of the part of it that the client has not."""
        size = len(event.text) if isinstance(event, Content | CallArguments) else 1
        known = min(max(self._since[at] - self._told[at], 0), size)
        self._told[at] += size
        before = self._provisional[at]
        if before is not None and isinstance(event, Content):
            agrees = event.text.startswith(before) or before.startswith(event.text)
            self._provisional[at] = unconfirmed(before, event.text) if agrees else None
        if 0 < known < size and not isinstance(event, CallBegins | CallEnds):
            self.told(at, event._replace(text=event.text[:known]))
            event = event._replace(text=event.text[known:])
            event = event._replace(at=event.at + known) if isinstance(event, Content) else event
        told = self.told(at, event)
        return told if known < size else b""

    def _changed(self, at: int, provisional: str) -> bytes:
        if not self.provisional(at):
            return b""
        parser = (
            self._parsers.get(at) or self.texts[at].parser()
        )  # until it has begun, another target may take it
        now, before = parser.ahead(provisional), self._provisional[at]
        self._provisional[at] = now
        if now == before:
            return b""
        kept = common_length(now, before or "")
        return self.changed(at, Provisional(kept, now[kept:]))


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
