"""A broker, a worker and edge nodes as processes, with an emulated link between device and cloud, a core for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flexspec_mq.demo.place import place
from flexspec_mq.demo.processes import Child, Family
from flexspec_mq.errors import FlexSpecError

LOOPBACK = "loopback"
"""Instead of a link's name: none."""
_START = 300.0
"""Seconds that a process may stay silent while it loads a model, on a busy machine."""
_ANSWER = 600.0


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core each side computes on; the same one where there is only one.

    Attributes:
        cloud: of broker and worker.
        device: of edge nodes, of which one works at a time, and of their user.
    """

    cloud: int
    device: int

    @classmethod
    def of_this_process(cls) -> Cores:
        """The first two that we may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(allowed[0], allowed[min(1, len(allowed) - 1)])


class Site:
    """Made by `site`.

    Args:
        client: the user's process.
        urls: of the edge nodes' APIs, by name.
    """

    def __init__(self, client: Child, urls: Mapping[str, str]) -> None:
        self._client = client
        self._urls = urls

    def ask(self, edge: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask an edge node for a text and wait for its end.

        Raises:
            FlexSpecError: there is none, or only a part of it.
        """
        self._client.send({"url": self._urls[edge], "body": body})
        found = self._client.wait_for(lambda event: "text" in event, _ANSWER)
        if found["error"]:
            raise FlexSpecError(f"edge node {edge}: {found['error']}")
        return found


@contextmanager
def site(
    link: str, seed: int, edges: Mapping[str, Sequence[str]], *, target: str, delay_ms: float
) -> Iterator[Site]:
    """Start all processes, and end them on leaving.

    Args:
        link: name of a built-in profile, or `LOOPBACK`.
        seed: of the link.
        edges: flags of ``flexspec-edge serve`` by the edge node's name.
        target: checkpoint folder of the target, or ``default``.
        delay_ms: by which each forward of the target takes longer.

    Raises:
        UsageError: no such profile, no root, no TUN device.
        FlexSpecError: a process did not start; says why.
    """
    cores = Cores.of_this_process()
    # The link goes last: its end would take the processes on it along, without a word.
    with place(None if link == LOOPBACK else link, seed) as where, Family() as family:

        def cloud(name: str, module: str, *arguments: str) -> Child:
            return family.start(
                name, _pinned(cores.cloud, where.cloud(module, *arguments)), lambda _line: None
            )

        def device(name: str, module: str, *arguments: str) -> Child:
            return family.start(name, _pinned(cores.device, where.device(module, *arguments)), lambda _: None)

        broker = cloud("broker", "broker", "run", "--ready-json", *where.listen)
        port = broker.wait_for(lambda event: "port" in event, _START)["port"]
        at = ("--broker", f"{where.host}:{port}")
        slow = ("benchmarks.pricing.slow_worker", str(delay_ms))
        worker = cloud("worker", *slow, *at, "--worker", "w1", "--target", target, "--ready-json")
        worker.wait_for(lambda event: "ready" in event, _START)
        # One after the other: they share a core, and loading takes most of it.
        urls = {}
        for name, flags in edges.items():
            edge = device(
                name, "edge_node", "serve", "--edge", name, "--api-port", "0", "--ready-json", *at, *flags
            )
            ready = edge.wait_for(lambda event: "port" in event, _START)
            urls[name] = f"http://127.0.0.1:{ready['port']}"
        command = [sys.executable, "-m", "benchmarks.pricing.asking"]
        if where.link is not None:
            command = where.link.inside("a", command)
        client = family.start("client", _pinned(cores.device, command), lambda _line: None)
        for name, url in urls.items():
            client.send({"url": url})
            if not client.wait_for(lambda event: "ready" in event, _START)["ready"]:
                raise FlexSpecError(f"edge node {name} heard of no worker")
        yield Site(client, urls)


def _pinned(core: int, command: Sequence[str]) -> list[str]:
    return ["taskset", "--cpu-list", str(core), *command]
