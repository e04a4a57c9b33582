"""A worker that goes while texts are being written: asked to, killed, or stopped for a while."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lab.bench.client import StreamedAnswer, ask_all, unbounded
from lab.benchmarks.serve.crowd import QUICK_STATUS, CrowdOutcome, with_broker
from lab.benchmarks.serve.texts import Asked
from lab.testbed.deployment import Daemon, LocalDeployment

_HANGS = 40.0
END_WITHIN = 90.0
"""Seconds for a worker with sessions to end in order."""
WAYS: dict[str, tuple[signal.Signals, tuple[str, ...]]] = {
    "SIGTERM, time to finish": (signal.SIGTERM, ("--drain", "60")),
    "SIGTERM, no time": (signal.SIGTERM, ("--drain", "0.5")),
    "SIGKILL": (signal.SIGKILL, ()),
    "SIGSTOP, 40 s": (signal.SIGSTOP, ()),
}
"""How a worker goes, and the flags of workers that go so."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A worker that went.

    Attributes:
        verdict: outcome of all texts that were under way, or began afterwards.
        held: sessions that it held when it was told.
        code: exit code; 0 of one that goes on.
        longest: gap between two pieces of a text, seconds.
    """

    verdict: CrowdOutcome
    held: int
    code: int
    longest: float


async def stops(
    asked: Sequence[Asked], references: Mapping[Asked, str], say: Callable[[str], None]
) -> dict[str, Stop]:
    """Two workers under load, of which one goes, in each of the ways."""
    found = {}
    for name, (number, flags) in WAYS.items():
        async with with_broker() as here:
            victim, _, edge = await asyncio.gather(
                here.worker("w1", *QUICK_STATUS, *flags),
                here.worker("w2", *QUICK_STATUS, *flags),
                here.edge("e1"),
            )
            found[name] = await _stop(here, victim, edge, number, asked, references)
        one = found[name]
        say(f"{name}: {one.held} sessions were there, {one.verdict.failed} failed, {one.verdict.wrong} wrong")
    return found


async def _stop(
    here: LocalDeployment,
    victim: Daemon,
    edge: Daemon,
    number: signal.Signals,
    asked: Sequence[Asked],
    references: Mapping[Asked, str],
) -> Stop:
    """Half of the texts begin before it goes, half while it does."""
    half = len(asked) // 2
    async with unbounded() as http, asyncio.TaskGroup() as group:
        early = group.create_task(ask_all(http, [edge.url], [one.body() for one in asked[:half]]))
        # Until it has a good part of them and some are written; its figures say so.
        held = 0
        while held < half // 4 and not early.done():
            await asyncio.sleep(0.1)
            figures = await victim.figures()
            if figures["flexspec_worker_tokens_total"] > half:
                held = int(figures["flexspec_worker_live_sessions"])
        if early.done():
            raise SystemExit(f"the texts were over before a worker could go; see {here.folder}")
        late = group.create_task(ask_all(http, [edge.url], [one.body() for one in asked[half:]]))
        if number is signal.SIGSTOP:
            victim.process.pause()
            await asyncio.sleep(_HANGS)
            victim.process.resume()
            code = 0
        else:
            code = await victim.process.end(number, END_WITHIN)
        answers: list[StreamedAnswer] = [*await early, *await late]
    gaps = [gap for answer in answers for gap in answer.gaps(0.0, float("inf"))]
    return Stop(CrowdOutcome.compared(asked, answers, references), held, code, max(gaps))
