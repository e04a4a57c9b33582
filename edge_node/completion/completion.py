"""A text: written once, read by any number of readers, each at its own pace."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from edge_node.completion.decoding import Origins, Piece
from edge_node.completion.options import SEED_BITS, CompletionOptions, Prompt
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.grammar.tools import HERMES, CallParser, ToolFormat
from schemas.node import TextFigures, TextView
from schemas.openai import unconfirmed

if TYPE_CHECKING:
    from edge_node.completion.service import Wait

EndReason = Literal["stop", "length", "provisional"]


@dataclass(frozen=True, slots=True)
class End:
    """How a text ended: complete, unverified at its end (`provisional`), with figures; or by an error."""

    reason: EndReason | None
    figures: TextFigures | None = None
    error: FlexSpecError | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """The mark by which two requests are the same, and what their text is written from after a restart.

    Attributes:
        key: the client's, or one that the node drew.
        digest: digest of endpoint and body, in canonical form.
        path: endpoint that reads the body.
        body: the request's body.
        client: who asks, as far as can be told.
        choice: which of the request's texts, from 0.
    """

    key: str
    digest: bytes
    path: str = field(default="", compare=False)
    body: bytes = field(default=b"", compare=False, repr=False)
    client: bytes = field(default=b"", compare=False)
    choice: int = field(default=0, compare=False)

    @property
    def seed(self) -> int:
        """The same for the same key and body, also after the node was started again."""
        digest = blake2b(self.digest, key=blake2b(self.key.encode(), digest_size=32).digest(), digest_size=8)
        return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is over, as the outbox keeps it.

    Attributes:
        pieces: the text, by who wrote it.
        reason: how it ended.
        version: target version that wrote it.
        form: how that writes calls of tools.
        figures: figures of the text.
    """

    pieces: list[Piece]
    reason: EndReason
    version: str
    form: ToolFormat
    figures: TextFigures | None


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


class Completion:
    """A text and who reads it.

    It holds the text once, however many read it and however slowly: no more than the limit of its tokens.

    Attributes:
        prompt: beginning that it goes on from.
        options: how it is written.
        key: mark of requests that ask for it; None without one.
        version: target version that writes it, once it has begun.
        form: how that writes calls of tools; see `parser`.
        id: random, for people and programs.
        created: seconds since the Unix epoch.
        origins: who wrote which character.
        readers: number of clients that read it now.
        size: characters.
        provisional: text that the device's draft wrote alone behind the confirmed text.
        waits: whom it waits for; None while it goes on.
        figures: tells its figures as they are now; None before it has a session.
        end: None while it is being written.
    """

    def __init__(self, prompt: Prompt, options: CompletionOptions, key: IdempotencyKey | None = None) -> None:
        self.prompt = prompt
        self.options = options
        self.key = key
        self.version = options.version or ""
        self.form = HERMES
        self.id = secrets.token_hex(12)
        self.created = int(time.time())
        self.began = time.monotonic()
        self.origins = Origins()
        self.readers = 0
        self.size = 0
        self.provisional = ""
        self.waits: Wait | None = None
        self.figures: Callable[[], TextFigures] | None = None
        self.end: End | None = None
        self._parts: list[str] = []
        self._news = asyncio.Event()

    def recall(self, answer: bytes) -> None:
        """Be the text that was kept."""
        kept = msgspec.json.decode(answer, type=Answer)
        self.version, self.form = kept.version, kept.form
        self.add(kept.pieces)
        self.finish(End(kept.reason, kept.figures))

    def answer(self, end: End) -> bytes:
        """The text with the end that it is about to have, to be kept."""
        assert end.reason is not None  # noqa: S101  errors are kept otherwise
        return msgspec.json.encode(
            Answer(
                pieces=self.origins.cut(self.whole, 0),
                reason=end.reason,
                version=self.version,
                form=self.form,
                figures=end.figures,
            )
        )

    def add(self, pieces: Sequence[Piece]) -> None:
        """Append confirmed text, which eats the beginning of the provisional text, or all of it where they differ."""
        part = "".join(piece for piece, _ in pieces)
        self.waits = None
        if part and self.end is None:
            self.origins.add(pieces)
            self._parts.append(part)
            self.size += len(part)
            self.provisional = unconfirmed(self.provisional, part)
            self._tell()

    def unverified(self, text: str) -> None:
        """Have this stand as provisional text behind the confirmed text."""
        if text != self.provisional and self.end is None:
            self.provisional = text
            self._tell()

    def wait(self, wait: Wait) -> None:
        """Have its readers told whom it waits for."""
        self.waits = wait
        self._tell()

    def finish(self, end: End) -> None:
        """End it; the first end counts. Its provisional text stays only where that is how it ended."""
        if self.end is None:
            self.end = end
            if end.reason != "provisional":
                self.provisional = ""
            self._tell()

    def view(self) -> TextView:
        """The text as whoever looks at the node sees it: its state and figures, never the text."""
        state: Literal["queued", "writing", "waiting", "over"] = (
            "queued" if self.figures is None else "writing"
        )
        why = ""
        if self.end is not None:
            state, why = "over", "" if self.end.error is None else str(self.end.error)
        elif self.waits is not None:
            state, why = "waiting", self.waits.what
        return TextView(
            id=self.id,
            state=state,
            why=why,
            reason=(self.end and self.end.reason) or "",
            figures=None if self.figures is None else self.figures(),
        )

    def parser(self) -> CallParser:
        """Reader of the calls in it, from its beginning; to be made when the text has begun."""
        return CallParser(self.form, self.options.tools)

    @property
    def complete(self) -> bool:
        """Whether it ended, and not by an error."""
        return self.end is not None and self.end.error is None

    @property
    def settled(self) -> bool:
        """Whether it is all that the target writes: complete, and not by the draft alone."""
        return self.complete and self.end is not None and self.end.reason != "provisional"

    async def begun(self) -> None:
        """Wait until there is something to show or to tell, or the text is over."""
        while self.end is None and not (self.size or self.provisional) and self.waits is None:
            await self._news.wait()

    async def ended(self) -> End:
        """Wait for the end."""
        while self.end is None:
            await self._news.wait()
        return self.end

    @property
    def whole(self) -> str:
        """All of it so far."""
        return "".join(self._parts)

    async def read(self, patience: float) -> AsyncIterator[Part]:
        """The text as it comes, until its end; a reader that lags behind gets all that it missed at once.

        Args:
            patience: seconds of silence after which a part without news comes.
        """
        at, told = 0, Part("", "", None)
        while True:
            part = Part("".join(self._parts[at:]), self.provisional, self.waits)
            at = len(self._parts)
            if part.text or part[1:] != told[1:]:
                yield (told := part)
            elif self.end is not None:
                return
            else:
                try:
                    async with asyncio.timeout(patience):
                        await self._news.wait()
                except TimeoutError:
                    yield part

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
