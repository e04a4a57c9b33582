"""A broker, a worker, edge nodes and their user, with an emulated link between device and cloud, a core for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pricing.meter import Costs, Meter
from benchmarks.pricing.others import Others, plan_of
from benchmarks.replay.crowd_process import generator
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.link.profiles import LinkPlan
from flexspec_mq.site import topology
from flexspec_mq.site.process import Process, python

_ANSWER = 600.0


class Site:
    """Made by `site`.

    Args:
        client: the user's process.
        urls: of the edge nodes' APIs, by name.
        meters: of link and worker, by the edge node's name.
        others: sessions that load the worker while it is asked, if there are any.
    """

    def __init__(
        self, client: Process, urls: Mapping[str, str], meters: Mapping[str, Meter], others: Others | None
    ) -> None:
        self._client = client
        self._urls = urls
        self._meters = meters
        self._others = others

    async def ask(
        self, edge: str, body: dict[str, Any], at: float | None = None, *, alone: bool = False
    ) -> tuple[dict[str, Any], Costs]:
        """Ask an edge node for a text and wait for its end.

        Args:
            edge: its name.
            body: of the request.
            at: second of the channel at which the request begins; None lets the channel go on.
            alone: without the others.

        Returns:
            What `asking` says, and what the answer cost.

        Raises:
            FlexSpecError: there is none, or only a part of it.
        """
        meter = self._meters[edge]
        others = None if alone else self._others
        async with nullcontext() if others is None else others.beside(edge):
            await meter.begin(at)
            await self._client.send({"url": self._urls[edge], "body": body})
            found = await self._client.event(lambda event: "text" in event, _ANSWER)
            if found["error"]:
                raise FlexSpecError(f"edge node {edge}: {found['error']}")
            return found, await meter.end()


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
) -> AsyncIterator[Site]:
    """Start all processes, and end them on leaving.

    Args:
        link: None is loopback.
        edges: flags of ``flexspec-edge serve`` by the edge node's name.
        workers: flags of ``flexspec-cloud`` by the version that each serves, of those that some edge node asks for.
        delay_ms: by which each forward of the target takes longer.
        load: other sessions, with the plan of the edge node that is asked.

    Raises:
        UsageError: no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    async with topology.site(link=link, cores=topology.Cores.of_this_process()) as here:
        await here.start_broker()
        program = ("benchmarks.pricing.slow_worker", str(delay_ms))
        plans = {name: plan_of(flags) for name, flags in edges.items()}
        wanted = {plan.version for plan in plans.values()}
        daemons = {
            version: await here.worker(f"w-{version}", "--version", version, *flags, program=program)
            for version, flags in workers.items()
            if version in wanted
        }
        # One after the other: they share a core, and loading takes most of it.
        urls = {name: (await here.edge(name, *flags)).url for name, flags in edges.items()}
        client = await here.start("client", "device", python("benchmarks.pricing.asking"))
        for name, url in urls.items():
            await client.send({"url": url})
            if not (await client.event(lambda event: "ready" in event))["ready"]:
                raise FlexSpecError(f"edge node {name} heard of no worker")
        reader = await here.start("reader", "cloud", python("benchmarks.pricing.asking"))
        meters = {name: Meter(here.link, reader, daemons[plan.version].url) for name, plan in plans.items()}
        others = None
        if load is not None:
            crowd = await generator(here, load.recording, count=load.count, token_ms=load.token_ms)
            others = Others(crowd, load.count, plans, settle=load.settle, seed=load.seed)
        yield Site(client, urls, meters, others)
