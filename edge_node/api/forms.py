"""Shapes of texts: what an API reads, and how its answers look, whole or as a stream."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from edge_node.api.errors import ApiError, api_error
from edge_node.text.machine import End, Text
from edge_node.text.reading import Part, TextFollower
from edge_node.text.spec import TextRequest
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.grammar.tools import CallEvent
from schemas.openai import Provisional

if TYPE_CHECKING:
    from edge_node.api.response_store import ResponseStore
    from edge_node.text.service import Wait

_NAMES = 1000
"""Characters of the names of ignored fields at most."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


class Form(ABC):
    """An API's shape of the texts of one request, for one client. Texts are counted from 0; most requests have one.

    Args:
        texts: the texts.
        prompt: field of the request that holds the prompt.
        shaped_by: field that says the form of the answer; None where none does.

    Attributes:
        kind: content type of a stream.
        name: id of the answer; the same for all who read it.
        followers: progress of the client in each text.
    """

    kind: ClassVar[str] = "text/event-stream; charset=utf-8"
    name: str

    def __init__(self, texts: Sequence[Text], prompt: str, shaped_by: str | None = None) -> None:
        self.texts = texts
        self.followers = [TextFollower(text) for text in texts]
        self._fields = prompt, shaped_by

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
        ends = "\n" if self.mark else "\n\n"  # behind an id OpenAI's client takes an empty line for an event
        return f": {waits or 'still writing'}{ends}".encode()

    def failed(self, error: FlexSpecError) -> ApiError:
        """A text's error as this API tells it."""
        return api_error(error, *self._fields)

    def news(self, at: int, part: Part) -> bytes:
        """A text's news, or a sign of life."""
        follower = self.followers[at]
        told = self._events(at, follower.push(part.text))
        if (change := follower.change(part.provisional)) is not None:
            told += self.changed(at, change)
        if follower.begins_to_wait(part.waits) or not (part.text or told):
            told += self.silence(at, part.waits)
        return told

    def ended(self, at: int, end: End) -> bytes:
        """The rest of a text that is complete, and how it ended."""
        return self._events(at, self.followers[at].finish(end)) + self.over(at, end)

    @property
    def mark(self) -> bytes:
        """The line by which a server-sent event names the stream's position; none where nobody could come back."""
        text, positions = self.texts[0], (str(follower.position) for follower in self.followers)
        return b"" if text.key is None else f"id: {text.id}:{','.join(positions)}\n".encode()

    def _events(self, at: int, events: Iterable[tuple[CallEvent, bool]]) -> bytes:
        told = [(self.told(at, event), new) for event, new in events]
        return b"".join(body for body, new in told if new)


class ApiRequest(TextRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Texts that a client asks for, by any API.

    Attributes:
        stream: answer with a stream.
        choices: how many texts, with seeds that follow each other.
        ignored: fields that ask for something and are ignored, as the node is lenient.
    """

    stream: bool = False
    choices: int = 1
    ignored: tuple[str, ...] = ()

    @property
    def ignored_names(self) -> str:
        """Names of the ignored fields for a header or a line in a log, whatever characters the client gave them."""
        return _UNPRINTABLE.sub("?", ", ".join(self.ignored))[:_NAMES]

    @property
    def instead(self) -> bytes | None:
        """The answer where no text is asked for."""
        return None

    def form(self, texts: Sequence[Text], responses: ResponseStore) -> Form:
        """The texts as this API shows them; it may keep its answer for later requests."""
        raise NotImplementedError
