"""TextFigures for Prometheus, in a registry of the app's own."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.node import EdgeNode
    from schemas.node import TextFigures
    from schemas.status import VersionFigures

M = TypeVar("M", Counter, Gauge)

_FIRST = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2)
_TOKEN = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)


class Metrics:
    """All figures of one app, which is told what happens to its texts.

    Args:
        node: read whenever the page is made.

    Attributes:
        requests: counter by endpoint and HTTP status; 499 is a client that went away.
        refused: clients that were kept out or cut short, by reason.
        tokens: tokens of texts that are over.
        energy_j: energy of these; None where nobody tells it.
        newest: figures of the newest of these; None before any.
    """

    tokens = 0
    energy_j: float | None = None
    newest: TextFigures | None = None

    def __init__(self, node: EdgeNode) -> None:
        self._registry = registry = CollectorRegistry()
        counter, gauge = partial(_made, Counter, registry), partial(_made, Gauge, registry)
        self.requests = counter("requests", "HTTP requests", "endpoint", "status")
        self.refused = counter("refused", "Clients kept out or cut short", "reason")
        self._texts = counter("texts", "Texts that ended", "outcome")
        # The prompt's of texts that began, and those of a completion as they are committed.
        self._tokens = counter("tokens", "Tokens", "kind")
        self._first_token = Histogram(
            "flexspec_edge_first_token_seconds", "Request to first token", buckets=_FIRST, registry=registry
        )
        self._per_token = Histogram(
            "flexspec_edge_token_seconds", "Per token after the first", buckets=_TOKEN, registry=registry
        )
        self._taken = {
            "drafted": counter("drafted_tokens", "Draft tokens judged"),
            "accepted": counter("accepted_tokens", "Of these, right"),
            "worker_accepted": counter(
                "worker_accepted_tokens", "Right ones that a worker had drafted itself"
            ),
            "forced": counter("forced_tokens", "Without a choice, by a grammar"),
            "looked_up": counter("looked_up_tokens", "Of the right ones, drafted by lookup"),
            "rounds": counter("rounds", "Verdicts that committed"),
        }
        self._bytes = counter("bytes", "MQTT payload of sessions", "way")
        self._energy = counter("energy_joules", "Taken by texts, each as if alone", "source")
        self._limits = counter("limits", "Texts that ended, by how a limit stood", "limit", "state")
        gauge("sessions", "Texts being written").set_function(lambda: node.sessions)
        gauge("tasks", "Tasks of the event loop").set_function(lambda: len(asyncio.all_tasks()))
        gauge("link_up", "1 while connected to the broker").set_function(lambda: node.link.is_up)
        ProcessCollector(registry=registry)
        registry.register(_Node(node))

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

    def took(self, figures: TextFigures) -> None:
        """A session is over."""
        self.tokens, self.newest = self.tokens + figures.tokens, figures
        for name, counter in self._taken.items():
            counter.inc(getattr(figures, name))
        self._bytes.labels("up").inc(figures.bytes_up)
        self._bytes.labels("down").inc(figures.bytes_down)
        if figures.energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + figures.energy_j
            self._energy.labels(figures.energy_source).inc(max(figures.energy_j, 0.0))
        for limit in figures.limits:
            self._limits.labels(limit.name, limit.state).inc()

    def ended(self, outcome: str) -> None:
        """A text is over: ``stop``, ``length``, ``deadline``, ``failed``, ``cancelled`` or ``stopped``."""
        self._texts.labels(outcome).inc()

    def page(self) -> bytes:
        """The page that Prometheus reads; made on the event loop."""
        return generate_latest(self._registry)


def _made(kind: type[M], registry: CollectorRegistry, name: str, about: str, *labels: str) -> M:
    return kind(f"flexspec_edge_{name}", about, labels, registry=registry)


class _Node(Collector):
    """Counts of the node itself, read whenever the page is made."""

    def __init__(self, node: EdgeNode) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        what = "Events that the protocol's table has no row for"
        yield CounterMetricFamily("flexspec_edge_surprises", what, value=self._node.surprises)
        what = "Messages that no worker's keys vouch for"
        refused = self._node.refused
        yield _labelled("unbelieved", what, {reason: refused.get(reason, 0) for reason in NotBelieved})
        for statement in self._node.dated:
            what = "When the deployment's statement expires"
            yield GaugeMetricFamily("flexspec_edge_statement_expires_seconds", what, value=statement.expires)
        if (family := self._node.models.followed) is not None:
            yield from _family(family)
            yield from _versions(self._node.status.tally.figures())


def _labelled(name: str, about: str, by_reason: Mapping[str, int]) -> Metric:
    metric = CounterMetricFamily(f"flexspec_edge_{name}", about, labels=["reason"])
    for reason, value in by_reason.items():
        metric.add_metric([reason], value)
    return metric


def _family(family: FamilyCatalogue) -> Iterator[Metric]:
    status = family.status()
    for name, about, value in (
        ("epoch_seconds", "When it was issued; 0 without any", status.epoch),
        ("expires_seconds", "When it expires; 0 without any", status.expires),
        ("keys_expires_seconds", "When its key set expires; 0 without any", family.keys_expire),
        ("expired", "1 past its expiry", status.state == "expired"),
        ("alarm", "1 once two signed messages had one number", bool(status.alarm)),
    ):
        yield GaugeMetricFamily(f"flexspec_edge_catalogue_{name}", about, value=value)
    refused = {reason.value: family.refused[reason] for reason in Reason}
    yield _labelled("catalogue_refused", "Messages on its topics refused", refused)


def _versions(figures: Sequence[VersionFigures]) -> Iterator[Metric]:
    labels = ("version", "digest")
    texts = CounterMetricFamily(
        "flexspec_edge_version_texts", "Texts that ended", labels=(*labels, "outcome")
    )
    for version in figures:
        texts.add_metric((version.name, version.digest, "complete"), version.answers)
        texts.add_metric((version.name, version.digest, "failed"), version.errors)
    yield texts
    for kind, name, field, about in (
        (CounterMetricFamily, "drafted", "drafted", "Draft tokens judged"),
        (CounterMetricFamily, "accepted", "accepted", "Of these, right"),
        (CounterMetricFamily, "tokens", "tokens", "Tokens after the first commit of a text"),
        (CounterMetricFamily, "seconds", "seconds", "That these took"),
        (GaugeMetricFamily, "acceptance_low", "low", "Lower end of the acceptance's interval, 95 %"),
        (GaugeMetricFamily, "acceptance_high", "high", "Upper end of the acceptance's interval, 95 %"),
    ):
        metric = kind(f"flexspec_edge_version_{name}", about, labels=labels)
        for version in figures:
            metric.add_metric((version.name, version.digest), getattr(version, field))
        yield metric
