"""Figures of a broker for Prometheus: what it refused to whom, and what of its clients is in force."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.daemon.instruments import Instruments
from flexspec_mq.daemon.probes import MetricsOptions, serving

Figures = Mapping[str, int | Mapping[Any, int]]
"""Values by the names of `_FAMILIES`: a number, or numbers by the values of the labels. A missing number is 0."""

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
    (
        GaugeMetricFamily,
        "statement_expires_seconds",
        (),
        "When the statement expires, since the Unix epoch; 0 without keys",
    ),
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
    page = Instruments("flexspec_broker_")
    page.register(_Collector(look))
    with start_blocking_portal() as portal:
        pages = serving(
            page.pages(),
            host=options.metrics_host,
            port=options.metrics_port,
            anywhere=options.metrics_anywhere,
        )
        with portal.wrap_async_context_manager(pages) as port:
            yield port
