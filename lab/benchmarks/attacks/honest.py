"""Three honest devices that have texts streamed to them at once, and how quick that was."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import httpx2

from lab.bench.client import StreamedAnswer, ask, greedy
from lab.testbed.deployment import Daemon

QUESTIONS = (
    "Write a long story about a lighthouse keeper who finds a letter in a bottle.",
    "Explain step by step how bread is made, from the field to the table.",
    "Describe the life of a river from its spring in the mountains to the sea.",
)

_NUMBERS = count(1)
"""Before each question, so that no text was read before."""


@dataclass(slots=True)
class Streams:
    """Speeds and first tokens of all of them.

    Attributes:
        speeds: tokens a second after the first one, of each text.
        firsts: seconds to the first token, of each text; as long as was waited where none came.
        failed: texts that did not come to their end.
        why: reason of the newest of these.
    """

    speeds: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    failed: int = 0
    why: str = ""

    @property
    def speed(self) -> float:
        """Mean tokens a second; a text that got no second token counts as 0."""
        return statistics.fmean(self.speeds)

    @property
    def first(self) -> float:
        """Mean seconds to the first token; a median jumps, as three that ask at once come together or one by one."""
        return statistics.fmean(self.firsts)

    def __add__(self, more: Streams) -> Streams:
        """The texts of both."""
        return Streams(
            self.speeds + more.speeds,
            self.firsts + more.firsts,
            self.failed + more.failed,
            more.why or self.why,
        )

    def add(self, answer: StreamedAnswer, tokens: int, patience: float) -> None:
        """Count one text."""
        ended = bool(answer.usage) and not answer.error
        if not ended:
            self.failed += 1
            self.why = answer.error or f"no end within {patience:g} s"
        got = answer.usage.get("completion_tokens", tokens) if ended else len(answer.times)
        self.firsts.append(min(patience, answer.first) if answer.times else patience)
        span = (answer.times[-1] if ended else answer.began + patience) - (answer.times or [0.0])[0]
        self.speeds.append((got - 1) / span if got > 1 and span > 0 else 0.0)


async def streams(
    http: httpx2.AsyncClient, devices: Sequence[Daemon], *, tokens: int, seconds: float, patience: float
) -> Streams:
    """Have each device ask for a text, all at once, and again until the time is over.

    Args:
        http: a client.
        devices: edge nodes.
        tokens: tokens of a text.
        seconds: time after which no other texts are asked for.
        patience: seconds that a text is waited for.
    """
    found = Streams()
    ends = time.monotonic() + seconds
    while not found.speeds or time.monotonic() < ends:
        answers = [StreamedAnswer() for _ in devices]
        await asyncio.gather(
            *(
                _one(http, device.url, f"{next(_NUMBERS)}. {question}", tokens, patience, answer)
                for device, question, answer in zip(devices, QUESTIONS, answers, strict=True)
            )
        )
        for answer in answers:
            found.add(answer, tokens, patience)
    return found


async def _one(
    http: httpx2.AsyncClient, url: str, question: str, tokens: int, patience: float, answer: StreamedAnswer
) -> None:
    try:
        async with asyncio.timeout(patience):
            await ask(http, url, greedy(question, tokens), answer=answer)
    except TimeoutError:
        return
