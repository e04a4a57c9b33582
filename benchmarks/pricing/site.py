"""A broker, a worker, edge nodes and their user, with an emulated link between device and cloud, a core for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.pricing.meter import Costs, LinkMeter, Meter
from benchmarks.pricing.others import Others, plan_of
from benchmarks.replay.crowd_process import generator
from benchmarks.traditional.channel import PACKET_BYTES
from benchmarks.traditional.sides import Traditional
from benchmarks.traditional.sides import start as start_traditional
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.link.profiles import LinkPlan
from flexspec_mq.site import topology
from flexspec_mq.site.process import Process, python

_ANSWER = 600.0


class Side(Protocol):
    """Whoever answers."""

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], Costs]:
        """Write a text; what `asking` says, and what it cost.

        Args:
            body: of a request to the chat endpoint.
            at: second of the channel at which the request begins; None lets the channel go on.
        """
        ...


class EdgeNode:
    """An edge node behind its API.

    Args:
        client: the user's process.
        url: of the API.
        meter: of link and worker.
    """

    def __init__(self, client: Process, url: str, meter: Meter) -> None:
        self._client = client
        self._url = url
        self._meter = meter

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], Costs]:
        """Ask over HTTP and wait for the end; see `Side.ask`."""
        await self._meter.begin(at)
        await self._client.send({"url": self._url, "body": body})
        found = await self._client.event(lambda event: "text" in event, _ANSWER)
        return found, await self._meter.end()


class Site:
    """Made by `site`.

    Args:
        sides: by name.
        others: sessions that load the worker while it is asked, if there are any.
    """

    def __init__(self, sides: Mapping[str, Side], others: Others | None) -> None:
        self._sides = sides
        self._others = others

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None, *, alone: bool = False
    ) -> tuple[dict[str, Any], Costs]:
        """Ask a side for a text and wait for its end.

        Args:
            side: its name.
            body: of a request to the chat endpoint.
            at: second of the channel at which the request begins; None lets the channel go on.
            alone: without the others.

        Returns:
            What `asking` says, and what the answer cost.

        Raises:
            FlexSpecError: there is none, or only a part of it.
        """
        others = None if alone else self._others
        async with nullcontext() if others is None else others.beside(side):
            found, costs = await self._sides[side].ask(body, at)
            if found["error"]:
                raise FlexSpecError(f"{side}: {found['error']}")
            return found, costs


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
    """Start all processes, and end them on leaving.

    Args:
        link: None is loopback.
        edges: flags of ``flexspec-edge serve`` by the edge node's name.
        workers: flags of ``flexspec-cloud`` by the version that each serves, of those that some edge node asks for.
        delay_ms: by which each forward of the target takes longer.
        load: other sessions, with the plan of the edge node that is asked.
        traditional: sides beside the edge nodes, with a worker of their own.

    Raises:
        UsageError: no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    async with topology.site(link=link, cores=topology.Cores.of_this_process()) as here:
        await here.start_broker(*(() if traditional is None else ("--max-packet", str(PACKET_BYTES))))
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
        sides: dict[str, Side] = {
            name: EdgeNode(client, urls[name], Meter(LinkMeter(here.link), reader, daemons[plan.version].url))
            for name, plan in plans.items()
        }
        if traditional is not None:
            sides |= await start_traditional(here, traditional, delay_ms)
        others = None
        if load is not None:
            crowd = await generator(here, load.recording, count=load.count, token_ms=load.token_ms)
            others = Others(crowd, load.count, plans, settle=load.settle, seed=load.seed)
        yield Site(sides, others)
