"""The system under load: null-model workers and load generators at a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from broker.launcher import PrivateBroker
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.cpu import Sample, Use, between, take
from lab.benchmarks.scale_parts.orders import LONGEST_ANSWER, BenchmarkError, Crowd, Order, Outcome, answer
from lab.testbed.site.figures import since
from lab.testbed.site.process import Process, Processes, python
from lab.testbed.site.topology import Daemon

SOON = 0.2
"""Seconds from sending an order to its start, so that all generators have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """A null-model worker; see `lab.benchmarks.scale_parts.worker` for the flags of the same names."""

    step_ms: float = 0.0
    token_ms: float = 0.0
    batch: int = 64
    capacity: int = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load came to.

    Attributes:
        outcome: of all generators.
        use: processor time in the window, by daemon.
        workers: by how much the figures of each worker rose in the window.
    """

    outcome: Outcome
    use: Use
    workers: dict[str, dict[str, float]]


@asynccontextmanager
async def null_workers(
    broker: PrivateBroker, folder: Path, version: str, plans: Sequence[WorkerPlan]
) -> AsyncIterator[list[Daemon]]:
    """Run workers of one version, named after it."""
    async with Processes() as processes:
        made = []
        for number, plan in enumerate(plans):
            name = f"{version}-w{number}"
            command = python(
                "lab.benchmarks.scale_parts.worker",
                *("--port", str(broker.port), "--worker", name, "--version", version),
                *("--step-ms", str(plan.step_ms), "--token-ms", str(plan.token_ms)),
                *("--batch", str(plan.batch), "--capacity", str(plan.capacity)),
            )
            worker = await processes.start(name, command, log=folder / f"{name}.log")
            made.append(Daemon(worker, (await worker.event())["metrics"]))
        yield made


@asynccontextmanager
async def generators(
    broker: PrivateBroker, folder: Path, *, edges: int, processes: int, right: float
) -> AsyncIterator[list[Process]]:
    """Run load generators with null drafts; the edges are dealt out evenly."""
    async with Processes() as started:
        made: list[Process] = []
        first = 0
        for number in range(processes):
            count = edges // processes + (number < edges % processes)
            crowd = Crowd(
                port=broker.port,
                first=first,
                count=count,
                fingerprint=null.FINGERPRINT.hex(),
                eos=null.EOS,
                right=right,
            )
            first += count
            made.append(await generator(started, f"generator {number}", folder, crowd))
        yield made


async def generator(processes: Processes, name: str, folder: Path, crowd: Crowd) -> Process:
    """Start a load generator and wait until it is ready."""
    command = python("lab.benchmarks.scale_parts.generator", msgspec.json.encode(crowd).decode())
    made = await processes.start(name, command, log=folder / f"{name}.log", longest_line=LONGEST_ANSWER)
    await made.line()
    return made


async def load(
    broker: PrivateBroker, workers: Sequence[Daemon], loaders: Sequence[Process], order: Order
) -> Measured:
    """Have an order carried out by all generators, and measure in its window.

    Args:
        broker: that all are connected to.
        workers: that serve the order's version.
        loaders: the generators.
        order: with a window that has not begun.

    Raises:
        FlexSpecError: a generator ended or hangs.
    """
    pids = {"broker": broker.pid or 0} | {
        one.name: one.pid for one in (*(worker.process for worker in workers), *loaders)
    }
    for loader in loaders:
        await loader.send(msgspec.json.encode(order))
    begun, before = await _sample(order.window[0], pids, workers)
    ended, after = await _sample(order.window[1], pids, workers)
    outcome = Outcome()
    for found in await asyncio.gather(*(answer(loader, order.patience + 60.0) for loader in loaders)):
        if not isinstance(found, Outcome):
            raise BenchmarkError(f"a generator answered {found}")
        outcome.add(found)
    rise = {name: since(before[name], after[name]) for name in before}
    return Measured(outcome, between(begun, ended), rise)


def in_window(order: Order, now: float, *, ramp: float, seconds: float) -> Order:
    """The same order with times: it starts soon, and its window opens `ramp` seconds after."""
    starts = now + SOON
    stops = starts + ramp + seconds
    return msgspec.structs.replace(order, starts=starts, stops=stops, window=(starts + ramp, stops))


async def _sample(
    at: float, pids: dict[str, int], workers: Sequence[Daemon]
) -> tuple[Sample, dict[str, dict[str, float]]]:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(max(0.0, at - loop.time()))
    sample = take(pids)
    pages = await asyncio.gather(*(worker.figures() for worker in workers))
    return sample, {worker.name: page for worker, page in zip(workers, pages, strict=True)}
