"""A broker, workers, edge nodes and their user, with an emulated link between device and cloud, a core for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from flexspec_mq.errors import FlexSpecError
from lab.bench.testbed.client import TOLD_WITHIN
from lab.bench.testbed.meter import Costs, LinkMeter, Meter
from lab.bench.testbed.node import Node
from lab.bench.testbed.server import SERVER
from lab.bench.testbed.server import start as start_server
from lab.bench.testbed.traditional import Traditional
from lab.bench.testbed.traditional import start as start_traditional
from lab.bench.traditional.channel import PACKET_BYTES
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.site import topology
from lab.testbed.site.process import Process, python

WORKER, SLOWED_WORKER = "cloud_worker", "lab.slowed"
_ASKING = "lab.bench.testbed.client_process"


class AnswerFailed(FlexSpecError):
    """An answer that did not come, or only a part of it.

    Args:
        side: who was asked.
        reason: what went wrong, as the client saw it.
        seconds: from the request to its failure.
    """

    def __init__(self, side: str, reason: str, seconds: float) -> None:
        super().__init__(f"{side}: {reason}")
        self.reason = reason
        self.seconds = seconds


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
        found = await self._client.event(lambda event: "text" in event, TOLD_WITHIN)
        return found, await self._meter.end()


@dataclass(frozen=True, slots=True)
class Place:
    """Made by `place`.

    Attributes:
        here: broker, daemons and link.
        sides: who answers, by name.
        urls: of the edge nodes' APIs, as seen from the device's side, by name.
    """

    here: topology.Site
    sides: Mapping[str, Side]
    urls: Mapping[str, str]

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], Costs]:
        """Ask a side for a text and wait for its end.

        Args:
            side: its name.
            body: of a request to the chat endpoint.
            at: second of the channel at which the request begins; None lets the channel go on.

        Returns:
            What `asking` says, and what the answer cost.

        Raises:
            AnswerFailed: there is none, or only a part of it.
            FlexSpecError: a process ended.
        """
        found, costs = await self.sides[side].ask(body, at)
        if found["error"]:
            raise AnswerFailed(side, found["error"], found["seconds"])
        return found, costs


@asynccontextmanager
async def place(
    link: LinkPlan | None,
    nodes: Mapping[str, Node],
    *,
    workers: Mapping[str, Sequence[str]],
    delay_ms: float = 0.0,
    traditional: Traditional | None = None,
    server: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Place]:
    """Start all processes, and end them on leaving.

    Args:
        link: None is loopback.
        nodes: by name.
        workers: flags of ``flexspec-cloud`` by the version that each serves; one that no node asks for is left out.
        delay_ms: by which each forward of the target takes longer.
        traditional: sides beside the edge nodes, with a worker of their own.
        server: command of another program that answers, the side `SERVER`; nothing makes its forwards longer.
        say: told what is waited for, where that may take minutes.

    Raises:
        UsageError: no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    async with topology.site(link=link, cores=topology.Cores.of_this_process()) as here:
        await here.start_broker(*(() if traditional is None else ("--max-packet", str(PACKET_BYTES))))
        program = (SLOWED_WORKER, str(delay_ms)) if delay_ms else (WORKER,)
        wanted = {node.version for node in nodes.values()}
        daemons = {
            version: await here.worker(f"w-{version}", "--version", version, *flags, program=program)
            for version, flags in workers.items()
            if version in wanted
        }
        # One after the other: they share a core, and loading takes most of it.
        urls = {
            name: (await here.edge(name, "--version", node.version, *node.flags)).url
            for name, node in nodes.items()
        }
        client = await here.start("client", "device", python(_ASKING))
        for name, url in urls.items():
            await client.send({"url": url})
            if not (await client.event(lambda event: "ready" in event))["ready"]:
                raise FlexSpecError(
                    f"edge node {name} heard of no worker",
                    hint="draft and target must have the same tokenizer: `flexspec doctor` compares them",
                )
        reader = await here.start("reader", "cloud", python(_ASKING))
        sides: dict[str, Side] = {
            name: EdgeNode(client, urls[name], Meter(LinkMeter(here.link), reader, daemons[node.version].url))
            for name, node in nodes.items()
        }
        if traditional is not None:
            sides |= await start_traditional(here, traditional, delay_ms)
        if server is not None:
            sides[SERVER] = await start_server(here, server, client, say)
        yield Place(here, sides, urls)
