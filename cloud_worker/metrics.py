"""Figures of a worker for Prometheus, in a registry of its own.

Numbers that are counted anyway are read when somebody asks; only times and sizes are noted as they come.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.daemon.probes import Page
from flexspec_mq.keys.refusals import KeyReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

    from cloud_worker.engine.interface import StepResult
    from cloud_worker.worker import CloudWorker
    from flexspec_mq.daemon.probes import Pages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_SESSIONS = {
    "opened": "sessions created",
    "reopened": "later attempts of sessions that were here",
    "closed": "ended by their edge",
    "expired": "ended by their lease",
    "failed": "ended as they could not be computed",
    "yielded": "gave their place to a device that held less",
}
_REFUSALS = {
    "busy": "opens for which there was no room",
    "over_quota": "of these, of devices that held as much as one may",
    "need_prefix": "opens that named a prefix which is not here",
    "unknown": "drafts for sessions that are not here",
    "rejected": "illegal messages",
}


class WorkerMetrics(Collector):
    """Figures of one worker: of its steps as they come, and what it counts anyway when somebody asks."""

    def __init__(self, worker: CloudWorker) -> None:
        self._worker = worker
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        queue = "From a batch's arrival to the beginning of the forward that decided it"
        self._queue = self._histogram("queue_seconds", queue, _SECONDS)
        self._compute = self._histogram("compute_seconds", "Of one forward", _SECONDS)
        self._batch = self._histogram("batch_sessions", "Sessions that shared one forward", _SIZES)
        self._fed = self._histogram("forward_tokens", "Tokens in one forward", _SIZES)
        self.registry.register(self)
        worker.on_step = self._step

    def _histogram(self, name: str, what: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"flexspec_worker_{name}", what, buckets=buckets, registry=self.registry)

    def _step(self, result: StepResult, began: float) -> None:
        """A forward is done.

        Args:
            result: Outcome of the step.
            began: when, on the clock of the items' `waiting_since`.
        """
        if not result.batch:
            return
        self._compute.observe(result.compute_ms / 1000)
        self._batch.observe(result.batch)
        self._fed.observe(result.fed)
        for item, _ in result.decided:
            self._queue.observe(max(0.0, began - item.waiting_since))

    def page(self) -> bytes:
        """The page that Prometheus reads, in its text format; made on the event loop."""
        return generate_latest(self.registry)

    def pages(self) -> Pages:
        """Pages that a worker shows over HTTP."""
        return {
            "/metrics": lambda: Page(self.page(), kind=CONTENT_TYPE),
            "/healthz": lambda: Page(b"ok\n"),
            "/readyz": self._ready,
        }

    def _ready(self) -> Page:
        why = self._worker.not_ready
        return Page(f"{why or 'ready'}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK)

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what the worker counts anyway."""
        machine, counters = self._worker.machine, self._worker.machine.counters
        for name, what, table in (
            ("sessions", "Sessions by what became of them", _SESSIONS),
            ("refusals", "Messages answered with a typed error", _REFUSALS),
        ):
            family = CounterMetricFamily(f"flexspec_worker_{name}", what, labels=["kind"])
            for kind in table:
                family.add_metric([kind], getattr(counters, kind))
            yield family
        unbelieved = CounterMetricFamily(
            "flexspec_worker_unbelieved", "Messages that its keys do not vouch for", labels=["reason"]
        )
        for reason in KeyReason:
            unbelieved.add_metric([reason], self._worker.refused.get(reason, 0))
        yield unbelieved
        yield _total("tokens", "Tokens decided", counters.decided)
        yield _total("accepted_tokens", "Of these, drafted by edges", counters.accepted)
        yield _total("drafted_tokens", "Tokens of edges' drafts given to the engine", counters.drafted)
        yield _total("cut_tokens", "Of these, put off for others' tokens, to come again", self._worker.cut)
        yield _total("own_drafted_tokens", "Tokens that the worker drafted itself", self._worker.drafted)
        yield _total("own_accepted_tokens", "Of these, accepted", counters.worker_accepted)
        yield _total("rounds", "Work items given to the engine", counters.items)
        yield _total("verdicts", "Verdicts sent", counters.verdicts)
        yield _total("prefix_hits", "Sessions that went on from an earlier text", counters.inherited)
        yield _total(
            "held_seconds", "Time that steps waited for sessions about to come back", self._worker.window.held
        )
        yield _total("malformed", "Messages that could not be read", self._worker.malformed)
        admission = self._worker.admission
        yield _total(
            "unread_messages", "Messages of devices over their quota, which were not read", admission.refused
        )
        yield _total("quota_answers", "Times that such a device was told", admission.told)
        yield _now("devices", "Devices whose quota of messages is kept account of", admission.devices)
        yield _total("overflow_messages", "Messages dropped from a full queue", self._worker.overflowed)
        yield _total(
            "held_back", "Rows put off as their device had more sessions than others", self._worker.held_back
        )
        yield _total(
            "slowed_prompt_tokens",
            "Tokens of prompts read slowly, as their device has many while others write",
            self._worker.slowed,
        )
        yield _total(
            "surprises", "Events that the protocol's table has no row for", machine.surprises.total()
        )
        yield _now("live_sessions", "Sessions whose text goes on", len(machine))
        by_version = GaugeMetricFamily(
            "flexspec_worker_version_sessions", "Live sessions by target version", labels=["version"]
        )
        for version, sessions in {**dict.fromkeys(machine.versions, 0), **machine.live}.items():
            by_version.add_metric([version], sessions)
        yield by_version
        if (follower := self._worker.family) is not None:
            versions = follower.statuses()
            by_state = GaugeMetricFamily(
                "flexspec_worker_versions", "Versions by what the worker says of them", labels=["state"]
            )
            for state in ("loading", "ready", "draining", "refused"):
                by_state.add_metric([state], sum(one.state == state for one in versions))
            yield by_state
            yield _now(
                "family_alarm",
                "1 if the family's catalogue has expired or is disputed",
                bool(follower.alarm),
            )
        yield _now("kept_texts", "Texts kept for their edges to go on from", machine.prefixes)
        yield _now("capacity_sessions", "Live sessions that are taken", self._worker.settings.capacity)
        yield _now("tasks", "Tasks of the event loop", len(asyncio.all_tasks()))
        yield _now("ready", "1 if it takes new sessions", not self._worker.not_ready)
        memory = self._worker.engine.memory
        if memory is not None:
            yield _now("kv_bytes", "Keys and values held", memory.nbytes)
            if memory.limit is not None:
                yield _now("kv_limit_bytes", "Most keys and values held at any moment", memory.limit)
            evictions = CounterMetricFamily(
                "flexspec_worker_evictions", "Keys and values dropped to make room", labels=["of"]
            )
            evictions.add_metric(["ended"], memory.dropped)
            evictions.add_metric(["live"], memory.evicted)
            yield evictions


def _total(name: str, what: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"flexspec_worker_{name}", what, value=value)


def _now(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"flexspec_worker_{name}", what, value=value)
