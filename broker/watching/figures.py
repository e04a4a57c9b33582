"""Figures of a broker for Prometheus: what it refused to whom, and what of its clients is in force."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from anyio.from_thread import start_blocking_portal
from prometheus_client import Metric
from prometheus_client.registry import Collector

from flexspec_mq.daemon.instruments import Instruments
from flexspec_mq.daemon.probes import MetricsOptions, serving

Figures = Mapping[str, int | Mapping[Any, int]]
"""Values by the names of `_FAMILIES`: a number, or numbers by the values of the labels. A missing number is 0."""

_FAMILIES = (
    (
        Instruments.total,
        "refused",
        ("user", "kind"),
        "What users asked for and may not; of failed logins Mosquitto does not tell the user",
    ),
    (Instruments.now, "connections", ("user",), "Connections of each user, now"),
    (Instruments.total, "messages", ("user",), "Messages published by each user"),
    (Instruments.total, "payload_bytes", ("user",), "Bytes of these messages"),
    (Instruments.now, "clients", (), "Users that may connect"),
    (Instruments.now, "revision", (), "Revision of the clients that is in force"),
    (Instruments.now, "statement", (), "Number of the signed statement that is published; 0 without keys"),
    (
        Instruments.now,
        "statement_expires_seconds",
        (),
        "When the statement expires, since the Unix epoch; 0 without keys",
    ),
    (Instruments.now, "revoked_credentials", (), "Credentials that the statement revokes"),
    (Instruments.now, "put_out", (), "Users that went beyond a limit and are not let in now"),
)


class _Collector(Collector):
    def __init__(self, page: Instruments, look: Callable[[], Figures]) -> None:
        self._page, self._look = page, look

    def collect(self) -> Iterator[Metric]:
        """All families, as of now."""
        now = self._look()
        for make, name, labels, about in _FAMILIES:
            yield make(self._page, name, about, now.get(name, {} if labels else 0), *labels)


@contextmanager
def shown(look: Callable[[], Figures], options: MetricsOptions) -> Iterator[int]:
    """Serve the pages inside the block, on a thread of its own; yields the port.

    The figures are asked for on that thread.

    Raises:
        UsageError: the address is not of this machine alone and that was not asked for, or it is taken.
    """
    assert options.metrics_port is not None  # noqa: S101  nobody asks for pages without a port
    page = Instruments("flexspec_broker_")
    page.register(_Collector(page, look))
    with start_blocking_portal() as portal:
        pages = serving(
            page.pages(),
            host=options.metrics_host,
            port=options.metrics_port,
            anywhere=options.metrics_anywhere,
        )
        with portal.wrap_async_context_manager(pages) as port:
            yield port
