"""An answer as it came: its pieces and what stood unverified behind them, with their times; and the cut."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import httpx2

from flexspec_mq import waiting
from flexspec_mq.chat.api import Told, api_at
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.demo.proxy import Proxy
from flexspec_mq.errors import FlexSpecError
from schemas.openai import FlexspecUsage, Writer

if TYPE_CHECKING:
    from flexspec_mq.chat.answer import AnswerView

OUTAGE_S = 3.0
"""Seconds for which the network is cut by default."""


@dataclass(slots=True)
class Recording:
    """An answer, in seconds since the question.

    Attributes:
        pieces: parts of the text with their writers, each at the time when the device had it.
        provisional: text that stood unverified behind them, at each time when it changed.
        cut: when the network was cut; None if the text was complete before.
        back: when the cut was over.
        seconds: until the text was complete.
        carried: bytes over the network, both ways: payload of TCP.
        tokens: length of the text.
        took: the node's own figures.
    """

    pieces: list[tuple[float, str, Writer | None]] = field(default_factory=list)
    provisional: list[tuple[float, str]] = field(default_factory=list)
    cut: float | None = None
    back: float = 0.0
    seconds: float = 0.0
    carried: int = 0
    tokens: int = 0
    took: FlexspecUsage = field(default_factory=FlexspecUsage)

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece for _, piece, _ in self.pieces)

    def unverified(self, now: float) -> str:
        """The provisional text that stood at a time."""
        return next((text for at, text in reversed(self.provisional) if at <= now), "")

    def at_return(self) -> tuple[str, str]:
        """Confirmed text, and the provisional text behind it, when the network came back."""
        confirmed = "".join(piece for at, piece, _ in self.pieces if at < self.back)
        return confirmed, next((text for at, text in reversed(self.provisional) if at < self.back), "")

    @property
    def right(self) -> int:
        """Characters of the provisional text at the return that were confirmed then."""
        confirmed, provisional = self.at_return()
        pairs = zip(provisional, self.text[len(confirmed) :], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


async def record(
    url: str,
    body: dict[str, Any],
    *,
    link: Proxy | None = None,
    cut_behind: float = math.inf,
    outage: float = OUTAGE_S,
    shown: AnswerView | None = None,
) -> Recording:
    """Ask a node and record the answer.

    Args:
        url: address of the node's API.
        body: JSON of the request.
        link: network between the node and the broker, whose bytes are counted.
        cut_behind: characters of the text after which no byte passes there for a while; connections stay until the node
            replaces them.
        outage: seconds of that while.
        shown: where the answer is shown as it comes.

    Raises:
        FlexSpecError: there is no answer.
    """
    made, told = Recording(), Told()
    async with api_at(ChatOptions(url=url)) as api:
        before, began = link.carried if link else 0, time.monotonic()
        async with aclosing(api.answer(body, uuid.uuid4().hex, lambda _wait: None)) as chunks:
            async for chunk in chunks:
                now = time.monotonic() - began
                if new := [(piece, writer) for piece, writer in told.take(chunk) if piece]:
                    made.pieces += [(now, piece, writer) for piece, writer in new]
                    made.seconds = now
                if shown is not None:
                    shown.text(new)
                if told.unverified != made.unverified(now):
                    made.provisional.append((now, told.unverified))
                if link is not None and made.cut is None and len(told.text) >= cut_behind:
                    link.stall(outage)
                    made.cut, made.back = now, now + outage
        made.took, made.tokens = told.usage.flexspec, told.usage.completion_tokens
        made.carried = link.carried - before if link else 0
    if made.cut == made.seconds:  # the last piece brought it beyond the half
        made.cut = None
    if not made.tokens:
        raise FlexSpecError("an answer came without figures", hint="this is a bug: please report it")
    return made


async def until_ready(name: str, url: str) -> None:
    """Wait until a daemon's ``/readyz`` says so.

    Raises:
        FlexSpecError: it does not.
    """
    try:
        async with asyncio.timeout(waiting.STARTS), httpx2.AsyncClient(trust_env=False) as http:
            while (await http.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110  another process knows
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise FlexSpecError(f"the {name} was not ready within {waiting.STARTS:.0f} s") from None
