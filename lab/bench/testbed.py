"""A broker, workers, edge nodes and their user, with an emulated link between device and cloud, a core for each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from lab.bench.client import TOLD_WITHIN
from lab.bench.meter import LinkBytes, LinkMeter
from lab.bench.strategies import SERVED, SERVER, Node
from lab.testbed.deployment import Cores, LocalDeployment, free_port, local_deployment
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.process import Process
from lab.traditional.channel import PACKET_BYTES
from lab.traditional.sides import Traditional, TraditionalSide
from lab.traditional.sides import start as start_traditional

HOST, PORT = "{host}", "{port}"
"""In its command: where to listen."""
_LISTS_WITHIN = 600.0
"""Seconds; weights of a big target take minutes to load."""
_TOLD_EACH = 10.0
"""Seconds between two lines about a wait."""
WORKER, SLOWED_WORKER = "cloud_worker", "lab.altered"
_CLIENT = "lab.bench.client"


class AnswerFailed(FlexSpecError):
    """An answer that did not come, or only a part of it.

    Args:
        side: who was asked.
        reason: reason of the failure, as the client saw it.
    """

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(f"{side}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ApiSide:
    """An edge node, or a server on the worker's core, behind an API.

    Attributes:
        client: the user's process, on the device's side.
        url: URL of the API, as seen from the device.
        link: between device and cloud.
        model: as it calls what it serves; empty leaves that out.
    """

    client: Process
    url: str
    link: LinkMeter
    model: str = ""

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], LinkBytes]:
        """Ask over HTTP and wait for the end; what `lab.bench.client` says, and what the link carried.

        Args:
            body: body of a request to the chat endpoint.
            at: second of the channel at which the request begins; None lets the channel go on.
        """
        self.link.begin(at)
        named = {"model": self.model} if self.model else {}
        await self.client.send({"url": self.url, "body": {**named, **body}})
        found = await self.client.event(lambda event: "text" in event, TOLD_WITHIN)
        if not found["error"] and "completion_tokens" not in found["usage"]:
            found["error"] = "it did not tell how many tokens it wrote (usage, asked for by stream_options)"
        return found, await self.link.end()


async def start_server(
    here: LocalDeployment, command: Sequence[str], client: Process, say: Callable[[str], None]
) -> ApiSide:
    """Start the program on the worker's side and core, and wait until the device can ask it.

    Args:
        here: the deployment whose broker, worker and device the program stands beside.
        command: command with `HOST` and `PORT` where it is told to listen.
        client: a process that runs `lab.bench.client` on the device's side.
        say: told what is waited for, every ten seconds.

    Raises:
        FlexSpecError: it ended, or lists no model; says what it said.
    """
    address, port = here.host, free_port()
    told = [part.replace(HOST, address).replace(PORT, str(port)) for part in command]
    # What it prints is for people: somebody reads its standard error, and only that.
    server = await here.start("server", "cloud", ("sh", "-c", 'exec "$@" >&2', "sh", *told))
    url = f"http://{address}:{port}"
    await client.send({"url": url, "models": _LISTS_WITHIN})
    longer = 2 * _LISTS_WITHIN  # the client says when it has waited for long enough
    ended = asyncio.create_task(server.wait(longer), name="the server ends")
    listed = asyncio.create_task(
        client.event(lambda event: "models" in event, longer), name="the server lists models"
    )
    began = asyncio.get_running_loop().time()
    both = (ended, listed)
    try:
        while not (await asyncio.wait(both, timeout=_TOLD_EACH, return_when=asyncio.FIRST_COMPLETED))[0]:
            waited = asyncio.get_running_loop().time() - began
            say(f"the program of --server lists no model yet, {waited:.0f} s of {_LISTS_WITHIN:.0f}")
        models = (await listed)["models"] if server.runs else []
    finally:
        ended.cancel()
        listed.cancel()
    if not models:
        state = "lists no model at /v1/models" if server.runs else f"ended with code {server.exit_code}"
        raise FlexSpecError(f"the program of --server {state}", hint=f"it said:\n{server.said[-2000:]}")
    return ApiSide(client, url, LinkMeter(here.link), models[0])


@dataclass(frozen=True, slots=True)
class BenchTestbed:
    """Made by `bench_testbed`.

    Attributes:
        sides: who answers, by name.
    """

    sides: Mapping[str, ApiSide | TraditionalSide]

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], LinkBytes]:
        """Ask a side, by the name of its strategy, for a text and wait for its end; as of `ApiSide.ask`.

        Raises:
            AnswerFailed: there is none, or only a part of it.
            FlexSpecError: a process ended.
        """
        found, carried = await self.sides[side].ask(body, at)
        if found["error"]:
            raise AnswerFailed(side, found["error"])
        return found, carried


@asynccontextmanager
async def bench_testbed(
    link: LinkPlan | None,
    nodes: Mapping[str, Node],
    *,
    workers: Mapping[str, Sequence[str]],
    programs: Mapping[str, Sequence[str]] | None = None,
    delay_ms: float = 0.0,
    traditional: Traditional | None = None,
    server: Sequence[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[BenchTestbed]:
    """Start all processes, and end them on leaving.

    Args:
        link: None is loopback.
        nodes: nodes by name.
        workers: flags of ``flexspec-cloud`` by the version that each serves; one that no node asks for is left out.
        programs: module, and arguments before the flags, of workers that are more or less than that, by version.
        delay_ms: milliseconds by which each forward of the target takes longer.
        traditional: sides beside the edge nodes, with a worker of their own.
        server: command of another program that answers, the side `SERVER`; nothing makes its forwards longer.
        say: told what is waited for, where that may take minutes.

    Raises:
        UsageError: no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    async with local_deployment(link=link, cores=Cores.of_this_process()) as here:
        await here.start_broker(*(() if traditional is None else ("--max-packet", str(PACKET_BYTES))))
        usual = (SLOWED_WORKER, str(delay_ms)) if delay_ms else (WORKER,)
        program = {version: (programs or {}).get(version, usual) for version in workers}
        wanted = {node.version for node in nodes.values()}
        client = await here.start("client", "device", python(_CLIENT))
        sides: dict[str, ApiSide | TraditionalSide] = {}
        if server is not None:
            sides[SERVER] = beside = await start_server(here, server, client, say)
            served = ("--engine", "openai", "--engine-url", beside.url, "--engine-model", beside.model)
            workers = {**workers, SERVED: served}
            program[SERVED] = (WORKER,)
        for version, flags in workers.items():
            if version in wanted:
                await here.worker(f"w-{version}", "--version", version, *flags, program=program[version])
        # One after the other: they share a core, and loading takes most of it.
        urls = {
            name: (await here.edge(name, "--version", node.version, *node.flags, program=node.program)).url
            for name, node in nodes.items()
        }
        for name, url in urls.items():
            await client.send({"url": url})
            if not (await client.event(lambda event: "ready" in event))["ready"]:
                raise FlexSpecError(
                    f"edge node {name} heard of no worker",
                    hint="draft and target must have the same tokenizer: `flexspec doctor` compares them",
                )
        sides |= {name: ApiSide(client, url, LinkMeter(here.link)) for name, url in urls.items()}
        if traditional is not None:
            sides |= await start_traditional(here, traditional, delay_ms)
        yield BenchTestbed(sides)
