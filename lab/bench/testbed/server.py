"""Another server of the same target, as a side: a program that answers the chat endpoint, asked across the link."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import FlexSpecError
from lab.bench.testbed.client import TOLD_WITHIN
from lab.bench.testbed.meter import Costs, LinkMeter
from lab.testbed.site.topology import free_port

if TYPE_CHECKING:
    from lab.testbed.site.process import Process
    from lab.testbed.site.topology import Site

HOST, PORT = "{host}", "{port}"
"""In its command: where to listen."""
SERVER = "server"
"""Name of the side."""
_LISTS_WITHIN = 600.0
"""Seconds; weights of a big target take minutes to load."""
_TOLD_EACH = 10.0
"""Seconds between two lines about a wait."""


class OtherServer:
    """A program that runs on the worker's core.

    Args:
        client: the user's process, on the device's side.
        server: the program.
        url: of it, as seen from the device.
        model: as it calls the one that it serves.
        link: between the two.
    """

    def __init__(self, client: Process, server: Process, url: str, model: str, link: LinkMeter) -> None:
        self._client = client
        self._server = server
        self._url = url
        self._model = model
        self._link = link

    async def ask(self, body: dict[str, Any], at: float | None) -> tuple[dict[str, Any], Costs]:
        """Ask over HTTP and wait for the end; see `lab.bench.testbed.testbed.Side`."""
        before = self._server.cpu_seconds
        self._link.begin(at)
        await self._client.send({"url": self._url, "body": {"model": self._model, **body}})
        found = await self._client.event(lambda event: "text" in event, TOLD_WITHIN)
        up, down = self._link.end()
        after = self._server.cpu_seconds
        spent = None if before is None or after is None else after - before
        if not found["error"] and "completion_tokens" not in found["usage"]:
            found["error"] = "it did not tell how many tokens it wrote (usage, asked for by stream_options)"
        return found, Costs(up, down, 0, 0, forwards=None, worker_s=spent)


async def start(
    here: Site, command: Sequence[str], client: Process, say: Callable[[str], None]
) -> OtherServer:
    """Start the program on the worker's side and core, and wait until the device can ask it.

    Args:
        here: where.
        command: with `HOST` and `PORT` where it is told to listen.
        client: a process that runs `asking` on the device's side.
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
    return OtherServer(client, server, url, models[0], LinkMeter(here.link))
