"""Figures of a broker for Prometheus: what it refused to whom, and what of its clients is in force."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.daemon.probes import MetricsOptions, Page, Pages, serving
from flexspec_mq.errors import FlexSpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0
"""Seconds for the server to begin, and to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known at one moment.

    Attributes:
        refused: refusals by user and kind, since the start (`broker.refusals`).
        connections: of each user, now.
        clients: who may connect.
        revision: of the clients that is in force.
        statement: number of the signed statement that is published; 0 without keys.
        revoked: credentials that it revokes.
        out: users that went beyond a limit and are put out now.
        messages: published by each user, since the start.
        payload: bytes of their payloads.
    """

    refused: Mapping[tuple[str, str], int]
    connections: Mapping[str, int]
    clients: int
    revision: int
    statement: int = 0
    revoked: int = 0
    out: int = 0
    messages: Mapping[str, int] = field(default_factory=dict)
    payload: Mapping[str, int] = field(default_factory=dict)


class _Collector(Collector):
    def __init__(self, look: Callable[[], Figures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """All of them, now."""
        now = self._look()
        refused = CounterMetricFamily(
            "flexspec_broker_refused",
            "What users asked for and may not; of failed logins Mosquitto does not tell the user",
            labels=["user", "kind"],
        )
        for (user, kind), count in sorted(now.refused.items()):
            refused.add_metric([user, kind], count)
        yield refused
        for family, values in (
            (
                GaugeMetricFamily("flexspec_broker_connections", "Now, of each user", labels=["user"]),
                now.connections,
            ),
            (
                CounterMetricFamily("flexspec_broker_messages", "Published by each user", labels=["user"]),
                now.messages,
            ),
            (
                CounterMetricFamily("flexspec_broker_payload_bytes", "Of these messages", labels=["user"]),
                now.payload,
            ),
        ):
            for user, number in sorted(values.items()):
                family.add_metric([user], number)
            yield family
        for name, what, value in (
            ("clients", "Users that may connect", now.clients),
            ("revision", "Revision of the clients that is in force", now.revision),
            ("statement", "Number of the signed statement that is published; 0 without keys", now.statement),
            ("revoked_credentials", "Credentials that the statement revokes", now.revoked),
            ("put_out", "Users that went beyond a limit and are not let in now", now.out),
        ):
            yield GaugeMetricFamily(f"flexspec_broker_{name}", what, value=value)


def pages(look: Callable[[], Figures]) -> Pages:
    """What a broker shows over HTTP; whoever gets an answer knows that it runs.

    Args:
        look: what is known now; called on another thread than the broker's.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(look))
    return {
        "/metrics": lambda: Page(generate_latest(registry), kind=CONTENT_TYPE),
        "/healthz": lambda: Page(b"ok\n"),
        "/readyz": lambda: Page(b"ready\n"),
    }


@contextmanager
def shown(look: Callable[[], Figures], options: MetricsOptions) -> Iterator[int]:
    """Serve the pages inside the block, on a thread of its own; yields the port.

    Raises:
        UsageError: the address is not of this machine alone and that was not asked for, or it is taken.
    """
    assert options.metrics_port is not None  # noqa: S101  nobody asks for pages without a port
    server = _Server(pages(look), options, options.metrics_port)
    server.begin()
    try:
        yield server.port
    finally:
        server.end()


class _Server:
    """The event loop of the pages."""

    def __init__(self, served: Pages, options: MetricsOptions, port: int) -> None:
        self.port = port
        self._pages = served
        self._options = options
        self._begun = threading.Event()
        self._failure: FlexSpecError | None = None
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="metrics")

    def begin(self) -> None:
        """Return when it answers, or raise what keeps it from that."""
        self._thread.start()
        self._begun.wait(_PATIENCE)
        if self._failure is not None:
            self._thread.join(_PATIENCE)
            raise self._failure

    def end(self) -> None:
        """Close it."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        where = self._options
        try:
            async with serving(
                self._pages, host=where.metrics_host, port=self.port, anywhere=where.metrics_anywhere
            ) as self.port:
                self._begun.set()
                await self._over.wait()
        except FlexSpecError as error:
            self._failure = error
            self._begun.set()
