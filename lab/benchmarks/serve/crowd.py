"""Thousands of requests through one edge node and one worker, and what they leave behind."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2

from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.benchmarks.serve.daemons import QUICK_STATUS, Footprint, settled, with_broker
from lab.benchmarks.serve.texts import Asked
from lab.testbed.deployment import Daemon

_WARM = 0.25
"""Share of the requests after which memory is looked at first: what is kept by design is kept by then."""


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


@dataclass(frozen=True, slots=True)
class Soak:
    """Traces of thousands of requests.

    Attributes:
        verdict: outcome of all of them.
        before, warm, after: of each daemon: at rest before the first request, after a quarter of them, after all.
    """

    verdict: CrowdOutcome
    before: dict[str, Footprint]
    warm: dict[str, Footprint]
    after: dict[str, Footprint]


async def soak(
    asked: Sequence[Asked],
    references: Mapping[Asked, str],
    requests: int,
    at_a_time: int,
    say: Callable[[str], None],
) -> Soak:
    """So many requests, so many at a time, through one edge node and one worker."""
    async with with_broker() as here:
        worker, edge = await asyncio.gather(here.worker("w1", *QUICK_STATUS), here.edge("e1"))
        daemons = {"worker": worker, "edge node": edge}
        todo = [asked[number % len(asked)] for number in range(requests)]
        quarter = round(_WARM * requests)
        before = await _footprints(daemons)
        answers = await _closed_loop(edge.url, todo[:quarter], at_a_time)
        warm = await _footprints(daemons)
        _tell(say, quarter, warm)
        while len(answers) < requests:
            part = todo[len(answers) : len(answers) + max(1, requests // 10)]
            answers += await _closed_loop(edge.url, part, at_a_time)
            _tell(say, len(answers), await _footprints(daemons))
        after = await _footprints(daemons)
    return Soak(CrowdOutcome.compared(todo, answers, references), before, warm, after)


async def _closed_loop(url: str, asked: Sequence[Asked], at_a_time: int) -> list[StreamedAnswer]:
    """Ask for all in order, so many at a time."""
    answers: list[Any] = [None] * len(asked)
    left = iter(enumerate(asked))

    async def client(http: httpx2.AsyncClient) -> None:
        for number, one in left:
            answers[number] = await ask(http, url, one.body())

    async with unbounded() as http:
        await asyncio.gather(*(client(http) for _ in range(at_a_time)))
    return answers


async def _footprints(daemons: Mapping[str, Daemon]) -> dict[str, Footprint]:
    for daemon in daemons.values():
        await settled(daemon)
    # The connections of the loop are closed by now; those that ask are new each time.
    return {name: await Footprint.read(daemon) for name, daemon in daemons.items()}


def _tell(say: Callable[[str], None], done: int, found: Mapping[str, Footprint]) -> None:
    said = "; ".join(
        f"{name} {one.memory / 1e6:.1f} MB, {one.files} files, {one.tasks} tasks, {one.sessions} sessions"
        for name, one in found.items()
    )
    say(f"{done} requests: {said}")
