"""A broker, a worker, edge nodes and their user, with an emulated link between device and cloud, a core for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.pricing.meter import Costs, Meter
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
        meter: of link and worker.
    """

    def __init__(self, client: Process, urls: Mapping[str, str], meter: Meter) -> None:
        self._client = client
        self._urls = urls
        self._meter = meter

    async def ask(
        self, edge: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], Costs]:
        """Ask an edge node for a text and wait for its end.

        Args:
            edge: its name.
            body: of the request.
            at: second of the channel at which the request begins; None lets the channel go on.

        Returns:
            What `asking` says, and what the answer cost.

        Raises:
            FlexSpecError: there is none, or only a part of it.
        """
        await self._meter.begin(at)
        await self._client.send({"url": self._urls[edge], "body": body})
        found = await self._client.event(lambda event: "text" in event, _ANSWER)
        if found["error"]:
            raise FlexSpecError(f"edge node {edge}: {found['error']}")
        return found, await self._meter.end()


@asynccontextmanager
async def site(
    link: LinkPlan | None, edges: Mapping[str, Sequence[str]], *, worker: Sequence[str], delay_ms: float
) -> AsyncIterator[Site]:
    """Start all processes, and end them on leaving.

    Args:
        link: None is loopback.
        edges: flags of ``flexspec-edge serve`` by the edge node's name.
        worker: flags of ``flexspec-cloud``.
        delay_ms: by which each forward of the target takes longer.

    Raises:
        UsageError: no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    async with topology.site(link=link, cores=topology.Cores.of_this_process()) as here:
        await here.start_broker()
        program = ("benchmarks.pricing.slow_worker", str(delay_ms))
        daemon = await here.worker("w1", *worker, program=program)
        # One after the other: they share a core, and loading takes most of it.
        urls = {name: (await here.edge(name, *flags)).url for name, flags in edges.items()}
        client = await here.start("client", "device", python("benchmarks.pricing.asking"))
        for name, url in urls.items():
            await client.send({"url": url})
            if not (await client.event(lambda event: "ready" in event))["ready"]:
                raise FlexSpecError(f"edge node {name} heard of no worker")
        reader = await here.start("reader", "cloud", python("benchmarks.pricing.asking"))
        yield Site(client, urls, Meter(here.link, reader, daemon.url))
