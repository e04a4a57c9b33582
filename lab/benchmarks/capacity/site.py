"""Real workers on one core and replayed edges on the other, with Mosquitto between them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_node.settings import PlanOptions
from lab.benchmarks.capacity.strategies import Strategy
from lab.benchmarks.pricing.asked import say
from lab.benchmarks.replay.crowd_process import generator
from lab.benchmarks.replay.figures import TextRun
from lab.benchmarks.replay.orders import Order, Writer, carried_out
from lab.testbed.site import topology
from lab.testbed.site.figures import since
from lab.testbed.site.process import Process
from lab.testbed.site.topology import Daemon

RATIONED, UNRATIONED = "worth", "all"
"""Values of ``--draft-rows``, and versions of the workers that have them: the name of a version changes no text."""


@dataclass(frozen=True, slots=True)
class Place:
    """Made by `place`.

    Attributes:
        workers: by what they are told of rows, which is the name of their version as well.
        devices: the generator.
    """

    workers: Mapping[str, Daemon]
    devices: Process

    async def written(
        self,
        rows: str,
        plans: Sequence[PlanOptions],
        seed: int,
        *,
        each: int = 1,
        rate: float | None = None,
        count: int = 0,
        temperature: float | None = None,
    ) -> tuple[list[TextRun], dict[str, float]]:
        """Have texts written by edges from the first on.

        Args:
            rows: which worker.
            plans: one for each edge.
            seed: of the order of texts.
            each: of a closed loop, texts of each that count.
            rate: of an open one, texts per second.
            count: of these.
            temperature: of the texts; None is all.

        Returns:
            The texts that count, and by how much the worker's figures rose.
        """
        worker = self.workers[rows]
        before = await worker.figures()
        order = Order(
            version=rows,
            writers=tuple(Writer(edge=number, plan=plan) for number, plan in enumerate(plans)),
            seed=seed,
            each=each,
            rate=rate,
            count=count,
            temperature=temperature,
        )
        runs = await carried_out(self.devices, order)
        return runs, since(before, await worker.figures())


@asynccontextmanager
async def place(
    options: Namespace,
    recording: Path,
    rows: Sequence[str],
    *,
    edges: int,
    token_ms: float,
    hasty: int = 0,
) -> AsyncIterator[Place]:
    """Start all processes, and end them on leaving.

    Args:
        options: of the command.
        recording: file.
        rows: a worker for each of these.
        edges: replayed ones.
        token_ms: that a drafted token takes them.
        hasty: more of them, whose drafts take no time.

    Raises:
        FlexSpecError: a process did not start; says why.
    """
    async with topology.site(cores=topology.Cores.of_this_process()) as here:
        await here.start_broker()
        workers = {}
        for which in rows:
            say(f"starting a worker, rows {which}")
            workers[which] = await here.worker(
                f"w-{which}",
                *("--version", which, "--draft-rows", which, "--capacity", str(edges + hasty + 8)),
                *("--target", options.target, "--draft", options.draft, "--batch", "512"),
            )
        say(f"connecting {edges + hasty} edges")
        yield Place(workers, await generator(here, recording, count=edges, token_ms=token_ms, hasty=hasty))


def rows_of(strategy: Strategy) -> str:
    """Which worker serves a strategy."""
    return RATIONED if strategy.rationed else UNRATIONED
