"""Thousands of requests through one edge node and one worker."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.benchmarks.serve.texts import Asked
from lab.testbed.deployment import LocalDeployment, local_deployment

QUICK_STATUS = ("--status-every", "1")


@asynccontextmanager
async def with_broker() -> AsyncIterator[LocalDeployment]:
    """A place on loopback with a broker, where what daemons say goes to files."""
    async with local_deployment(logs=True) as here:
        await here.start_broker()
        yield here


@dataclass(frozen=True, slots=True)
class CrowdOutcome:
    """Outcome of many requests.

    Attributes:
        failed: requests that got an error.
        wrong: texts that differ from the target's own.
        median, slowest: seconds.
    """

    requests: int
    failed: int
    wrong: int
    median: float
    slowest: float

    @classmethod
    def compared(
        cls, asked: Sequence[Asked], answers: Sequence[StreamedAnswer], references: Mapping[Asked, str]
    ) -> CrowdOutcome:
        """Compare every answer with its reference."""
        seconds = [answer.seconds for answer in answers]
        return cls(
            requests=len(answers),
            failed=sum(bool(answer.error) for answer in answers),
            wrong=sum(
                not answer.error and answer.text != references[one]
                for one, answer in zip(asked, answers, strict=True)
            ),
            median=statistics.median(seconds),
            slowest=max(seconds),
        )


async def soak(
    asked: Sequence[Asked],
    references: Mapping[Asked, str],
    requests: int,
    at_a_time: int,
    say: Callable[[str], None],
) -> CrowdOutcome:
    """So many requests, so many at a time, through one edge node and one worker."""
    todo = [asked[number % len(asked)] for number in range(requests)]
    answers: list[Any] = [None] * requests
    left = iter(enumerate(todo))

    async def client(http: httpx2.AsyncClient, url: str) -> None:
        for number, one in left:
            answers[number] = await ask(http, url, one.body())
            if number % max(1, requests // 10) == 0:
                say(f"request {number} of {requests}")

    async with with_broker() as here, unbounded() as http:
        _, edge = await asyncio.gather(here.worker("w1", *QUICK_STATUS), here.edge("e1"))
        await asyncio.gather(*(client(http, edge.url) for _ in range(at_a_time)))
    return CrowdOutcome.compared(todo, answers, references)
