"""Figures of a broker for Prometheus: what it refused to whom, and what of its clients is in force."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.daemon.probes import MetricsOptions, Page, Pages, serving

T = TypeVar("T")
Figures = Mapping[str, int | Mapping[Any, int]]
"""Values by the names of `_FAMILIES`: a number, or numbers by the values of the labels. A missing number is 0."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0
"""Seconds for the server to begin, and to end."""
_FAMILIES = (
    (
        CounterMetricFamily,
        "refused",
        ("user", "kind"),
        "What users asked for and may not; of failed logins Mosquitto does not tell the user",
    ),
    (GaugeMetricFamily, "connections", ("user",), "Connections of each user, now"),
    (CounterMetricFamily, "messages", ("user",), "Messages published by each user"),
    (CounterMetricFamily, "payload_bytes", ("user",), "Bytes of these messages"),
    (GaugeMetricFamily, "clients", (), "Users that may connect"),
    (GaugeMetricFamily, "revision", (), "Revision of the clients that is in force"),
    (GaugeMetricFamily, "statement", (), "Number of the signed statement that is published; 0 without keys"),
    (GaugeMetricFamily, "revoked_credentials", (), "Credentials that the statement revokes"),
    (GaugeMetricFamily, "put_out", (), "Users that went beyond a limit and are not let in now"),
)


class _Collector(Collector):
    def __init__(self, look: Callable[[], Figures]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        now = self._look()
        for kind, name, labels, about in _FAMILIES:
            family = kind(f"flexspec_broker_{name}", about, labels=labels)
            values = now.get(name, {} if labels else 0)
            if isinstance(values, int):
                family.add_metric((), values)
            else:
                for key, value in sorted(values.items()):
                    family.add_metric((key,) if isinstance(key, str) else key, value)
            yield family


@contextmanager
def shown(look: Callable[[], Figures], options: MetricsOptions) -> Iterator[int]:
    """Serve the pages inside the block, on a thread of its own; yields the port.

    The figures are asked for on that thread.

    Raises:
        UsageError: the address is not of this machine alone and that was not asked for, or it is taken.
    """
    assert options.metrics_port is not None  # noqa: S101  nobody asks for pages without a port
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True, name="metrics")
    thread.start()

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(_PATIENCE)

    server = AsyncExitStack()
    try:
        where = serving(
            _pages(look),
            host=options.metrics_host,
            port=options.metrics_port,
            anywhere=options.metrics_anywhere,
        )
        port = run(server.enter_async_context(where))
        try:
            yield port
        finally:
            run(server.aclose())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_PATIENCE)
        loop.close()


def _pages(look: Callable[[], Figures]) -> Pages:
    """Pages of a broker; whoever gets an answer knows that it runs."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(look))
    return {
        "/metrics": lambda: Page(generate_latest(registry), kind=CONTENT_TYPE),
        "/healthz": lambda: Page(b"ok\n"),
        "/readyz": lambda: Page(b"ready\n"),
    }
