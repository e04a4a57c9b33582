"""A place where sides answer, with other sessions that load its worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.bench.testbed.meter import Costs
from lab.bench.testbed.node import Node
from lab.bench.testbed.testbed import Place, place
from lab.bench.testbed.traditional import Traditional
from lab.benchmarks.pricing.others import Others, plan_of
from lab.benchmarks.replay.crowd_process import generator
from lab.testbed.link.profiles import LinkPlan


class Site:
    """Made by `site`.

    Args:
        here: where the sides answer.
        others: sessions that load the worker while it is asked, if there are any.
    """

    def __init__(self, here: Place, others: Others | None) -> None:
        self._here = here
        self._others = others

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None, *, alone: bool = False
    ) -> tuple[dict[str, Any], Costs]:
        """As `Place.ask`.

        Args:
            side: its name.
            body: of a request to the chat endpoint.
            at: second of the channel at which the request begins; None lets the channel go on.
            alone: without the others.
        """
        others = None if alone else self._others
        async with nullcontext() if others is None else others.beside(side):
            return await self._here.ask(side, body, at)


@dataclass(frozen=True, slots=True)
class Load:
    """Other sessions at the worker.

    Attributes:
        count: how many.
        recording: file with what they write and draft.
        token_ms: that a drafted token takes them.
        settle: seconds that they write before an answer is asked for.
        seed: of the order of their texts.
    """

    count: int
    recording: Path
    token_ms: float
    settle: float
    seed: int


@asynccontextmanager
async def site(
    link: LinkPlan | None,
    edges: Mapping[str, Sequence[str]],
    *,
    workers: Mapping[str, Sequence[str]],
    delay_ms: float,
    load: Load | None = None,
    traditional: Traditional | None = None,
) -> AsyncIterator[Site]:
    """Start all processes, and end them on leaving; see `place`.

    Args:
        link: None is loopback.
        edges: flags of ``flexspec-edge serve`` by the edge node's name.
        workers: flags of ``flexspec-cloud`` by the version that each serves.
        delay_ms: by which each forward of the target takes longer.
        load: other sessions, with the plan of the edge node that is asked.
        traditional: sides beside the edge nodes, with a worker of their own.
    """
    plans = {name: plan_of(flags) for name, flags in edges.items()}
    nodes = {name: Node(flags, plans[name].version) for name, flags in edges.items()}
    async with place(link, nodes, workers=workers, delay_ms=delay_ms, traditional=traditional) as here:
        others = None
        if load is not None:
            crowd = await generator(here.here, load.recording, count=load.count, token_ms=load.token_ms)
            others = Others(crowd, load.count, plans, settle=load.settle, seed=load.seed)
        yield Site(here, others)
