"""Figures for Prometheus, in a registry of the app's own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.catalogue.refusals import Reason
from flexspec_mq.keys.refusals import KeyReason as NotBelieved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from edge_node.completion.figures import Figures
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.node import EdgeNode

_FIRST = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)
_TOKEN = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Metrics:
    """All figures of one app, which is told what happens to its texts.

    Args:
        node: read whenever the page is made.

    Attributes:
        requests: by endpoint and HTTP status; 499 is a client that went away.
        refused: clients that were kept out or cut short, by reason.
    """

    def __init__(self, node: EdgeNode) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "flexspec_edge_requests", "HTTP requests", ("endpoint", "status"), registry=registry
        )
        self.refused = Counter(
            "flexspec_edge_refused", "Clients kept out or cut short", ("reason",), registry=registry
        )
        self._texts = Counter("flexspec_edge_texts", "Texts that ended", ("outcome",), registry=registry)
        # The prompt's of texts that began, and those of a completion as they are committed.
        self._tokens = Counter("flexspec_edge_tokens", "Tokens", ("kind",), registry=registry)
        self._first_token = Histogram(
            "flexspec_edge_first_token_seconds", "Request to first token", buckets=_FIRST, registry=registry
        )
        self._per_token = Histogram(
            "flexspec_edge_token_seconds", "Per token after the first", buckets=_TOKEN, registry=registry
        )
        self._drafted = Counter("flexspec_edge_drafted_tokens", "Draft tokens judged", registry=registry)
        self._accepted = Counter("flexspec_edge_accepted_tokens", "Of these, right", registry=registry)
        self._worker_accepted = Counter(
            "flexspec_edge_worker_accepted_tokens",
            "Right ones that a worker had drafted itself",
            registry=registry,
        )
        self._looked_up = Counter(
            "flexspec_edge_looked_up_tokens", "Of the right ones, drafted by lookup", registry=registry
        )
        self._rounds = Counter("flexspec_edge_rounds", "Verdicts that committed", registry=registry)
        self._bytes = Counter("flexspec_edge_bytes", "MQTT payload of sessions", ("way",), registry=registry)
        self._energy = Counter(
            "flexspec_edge_energy_joules", "Taken by texts, each as if alone", ("source",), registry=registry
        )
        self._limits = Counter(
            "flexspec_edge_limits",
            "Texts that ended, by how a limit stood",
            ("limit", "state"),
            registry=registry,
        )
        Gauge("flexspec_edge_sessions", "Texts being written", registry=registry).set_function(
            lambda: node.sessions
        )
        Gauge("flexspec_edge_tasks", "Tasks of the event loop", registry=registry).set_function(
            lambda: len(asyncio.all_tasks())
        )
        ProcessCollector(registry=registry)
        Gauge("flexspec_edge_link_up", "1 while connected to the broker", registry=registry).set_function(
            lambda: node.link.is_up
        )
        registry.register(_Surprises(node))
        registry.register(_Unbelieved(node))
        if node.models.followed is not None:
            registry.register(_Family(node, node.models.followed))

    def began(self, prompt_tokens: int) -> None:
        """A session was opened."""
        self._tokens.labels("prompt").inc(prompt_tokens)

    def committed(self, tokens: int, seconds: float, *, first: bool) -> None:
        """Tokens came, so many seconds after the ones before, or after the request."""
        if first:
            self._first_token.observe(seconds)
        else:
            self._per_token.observe(seconds / tokens)
        self._tokens.labels("completion").inc(tokens)

    def took(self, figures: Figures) -> None:
        """A session is over."""
        self._drafted.inc(figures.drafted)
        self._accepted.inc(figures.accepted)
        self._looked_up.inc(figures.looked_up)
        self._worker_accepted.inc(figures.worker_accepted)
        self._rounds.inc(figures.rounds)
        self._bytes.labels("up").inc(figures.bytes_up)
        self._bytes.labels("down").inc(figures.bytes_down)
        if figures.energy_j is not None:
            self._energy.labels(figures.energy_source).inc(max(figures.energy_j, 0.0))
        for one in figures.limits:
            self._limits.labels(one.name, one.state).inc()

    def ended(self, outcome: str) -> None:
        """A text is over: ``stop``, ``length``, ``deadline``, ``failed``, ``cancelled`` or ``stopped``."""
        self._texts.labels(outcome).inc()

    def page(self) -> bytes:
        """The page that Prometheus reads; made on the event loop."""
        return generate_latest(self._registry)


class _Surprises(Collector):
    def __init__(self, node: EdgeNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        what = "Events that the protocol's table has no row for"
        yield CounterMetricFamily("flexspec_edge_surprises", what, value=self._node.surprises)


class _Unbelieved(Collector):
    def __init__(self, node: EdgeNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "flexspec_edge_unbelieved", "Messages that no worker's keys vouch for", labels=["reason"]
        )
        for reason in NotBelieved:
            family.add_metric([reason], self._node.refused.get(reason, 0))
        yield family


class _Family(Collector):
    """The catalogue that the node follows, and what it has seen of each version."""

    def __init__(self, node: EdgeNode, family: FamilyCatalogue) -> None:
        self._node = node
        self._family = family

    def collect(self) -> Iterator[Metric]:
        family, name = self._family, "flexspec_edge_catalogue"
        catalogue = family.catalogue
        epoch = 0 if catalogue is None else catalogue.epoch
        yield GaugeMetricFamily(f"{name}_epoch_seconds", "When it was issued; 0 without any", value=epoch)
        yield GaugeMetricFamily(
            f"{name}_expires_seconds", "When it expires; 0 without any", value=family.expires
        )
        yield GaugeMetricFamily(f"{name}_expired", "1 past its expiry", value=family.expired)
        yield GaugeMetricFamily(
            f"{name}_alarm", "1 once two signed messages had one number", value=bool(family.alarm)
        )
        refused = CounterMetricFamily(f"{name}_refused", "Messages on its topics refused", labels=("reason",))
        for reason in Reason:
            refused.add_metric((reason.value,), family.refused[reason])
        yield refused
        yield from self._versions()

    def _versions(self) -> Iterator[Metric]:
        name, labels = "flexspec_edge_version", ("version", "digest")
        figures = self._node.status.tally.figures()
        texts = CounterMetricFamily(f"{name}_texts", "Texts that ended", labels=(*labels, "outcome"))
        for one in figures:
            texts.add_metric((one.name, one.digest, "complete"), one.answers)
            texts.add_metric((one.name, one.digest, "failed"), one.errors)
        yield texts
        for field, what in (
            ("drafted", "Draft tokens judged"),
            ("accepted", "Of these, right"),
            ("tokens", "Tokens after the first commit of a text"),
            ("seconds", "That these took"),
        ):
            counter = CounterMetricFamily(f"{name}_{field}", what, labels=labels)
            for one in figures:
                counter.add_metric((one.name, one.digest), getattr(one, field))
            yield counter
        for field, what in (("low", "Lower"), ("high", "Upper")):
            gauge = GaugeMetricFamily(
                f"{name}_acceptance_{field}", f"{what} end of the acceptance's interval, 95 %", labels=labels
            )
            for one in figures:
                gauge.add_metric((one.name, one.digest), getattr(one, field))
            yield gauge
