"""One text: written once, read by any number of requests, each at its own pace."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edge_node.completion.attribution import Origins

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edge_node.api.errors import ApiError
    from edge_node.api.requests import TextRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a text took.

    Attributes:
        prompt_tokens, completion_tokens: counted in tokens; those of a stop string or an end of text as well.
        drafted: draft tokens that the target's decision met.
        accepted: of these, right.
        looked_up: of the accepted ones, those that a lookup in the text itself had drafted.
        rounds: verdicts that committed something.
        bytes_up, bytes_down: MQTT payload.
        version: target version that wrote it.
        seed: with which the same text comes again.
        exactness: as the statuses of the version's workers say.
    """

    prompt_tokens: int
    completion_tokens: int
    drafted: int
    accepted: int
    looked_up: int
    rounds: int
    bytes_up: int
    bytes_down: int
    version: str
    seed: int
    exactness: str


@dataclass(frozen=True, slots=True)
class End:
    """How a text ended: complete, with figures, or by an error."""

    reason: Literal["stop", "length"] | None
    figures: Figures | None = None
    error: ApiError | None = None


class Text:
    """A text and who reads it.

    It holds the text once, however many read it and however slowly: no more than the limit of its tokens.

    Attributes:
        wanted: what was asked for.
        version: target version that writes it.
        drawn_seed: used if the client gave no seed.
        id, created: as OpenAI's objects have them; the same for all who read it.
        origins: who wrote which character; may be ahead of what is shown.
        readers: requests that read it now.
        size: characters.
        end: None while it is being written.
    """

    def __init__(self, wanted: TextRequest, version: str, drawn_seed: int) -> None:
        self.wanted = wanted
        self.version = version
        self.drawn_seed = drawn_seed
        self.id = ("chatcmpl-" if wanted.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())
        self.began = time.monotonic()
        self.origins = Origins()
        self.readers = 0
        self.size = 0
        self.end: End | None = None
        self._pieces: list[str] = []
        self._news = asyncio.Event()

    def add(self, piece: str) -> None:
        """Append to the text."""
        if piece and self.end is None:
            self._pieces.append(piece)
            self.size += len(piece)
            self._tell()

    def finish(self, end: End) -> None:
        """End it; the first end counts."""
        if self.end is None:
            self.end = end
            self._tell()

    @property
    def complete(self) -> bool:
        """Whether it ended, and not by an error."""
        return self.end is not None and self.end.error is None

    def settle(self) -> None:
        """Nobody reads it now: keep it as one string."""
        self._pieces = ["".join(self._pieces)]

    async def begun(self) -> None:
        """Wait until there is something to show, or the text is over."""
        while self.end is None and not self.size:
            await self._news.wait()

    async def ended(self) -> End:
        """Wait for the end."""
        while self.end is None:
            await self._news.wait()
        return self.end

    @property
    def whole(self) -> str:
        """All of it so far."""
        return "".join(self._pieces)

    async def read(self, patience: float) -> AsyncIterator[str]:
        """The text as it comes, until its end; a reader that lags behind gets all that it missed at once.

        Args:
            patience: seconds of silence after which an empty piece comes.
        """
        at = 0
        while True:
            if at < len(self._pieces):
                piece = "".join(self._pieces[at:])
                at = len(self._pieces)
                yield piece
            elif self.end is not None:
                return
            else:
                try:
                    async with asyncio.timeout(patience):
                        await self._news.wait()
                except TimeoutError:
                    yield ""

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
