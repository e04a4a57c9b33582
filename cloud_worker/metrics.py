"""Figures of a worker for Prometheus, in a registry of its own.

Numbers that are counted anyway are read when somebody asks; only times and sizes are noted as they come.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from flexspec_mq.daemon.probes import Page
from flexspec_mq.keys.refusals import KeyReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from cloud_worker.engine.interface import StepResult
    from cloud_worker.worker import CloudWorker
    from flexspec_mq.daemon.probes import Pages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_SESSIONS = ("opened", "reopened", "closed", "expired", "failed", "yielded")
"""Yielded ones gave their place to a device that held less; others end by their edge, their lease or a failure."""
_REFUSALS = ("busy", "over_quota", "need_prefix", "unknown", "rejected")
"""Opens without room, of these those of devices that hold what one may, opens of a prefix that is not here, drafts for
sessions that are not here, and illegal messages."""


class WorkerMetrics(Collector):
    """Figures of one worker: of its steps as they come, and what it counts anyway when somebody asks."""

    def __init__(self, worker: CloudWorker) -> None:
        self._worker = worker
        self._steps = Counter[str]()
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
        self._steps.update(
            drafted=result.drafted, cut=result.cut, held_back=result.held_back, slowed=result.slowed
        )
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
        worker, steps, admission = self._worker, self._steps, self._worker.admission
        for name, what, table in (
            ("sessions", "Sessions by what became of them", _SESSIONS),
            ("refusals", "Messages answered with a typed error", _REFUSALS),
        ):
            yield _labelled(_TOTAL, name, what, "kind", {kind: getattr(counters, kind) for kind in table})
        unbelieved = {reason.value: worker.refused.get(reason, 0) for reason in KeyReason}
        yield _labelled(_TOTAL, "unbelieved", "Messages that its keys do not vouch for", "reason", unbelieved)
        for name, what, value in (
            ("tokens", "Tokens decided", counters.decided),
            ("accepted_tokens", "Of these, drafted by edges", counters.accepted),
            ("drafted_tokens", "Tokens of edges' drafts given to the engine", counters.drafted),
            ("cut_tokens", "Of these, put off for others' tokens, to come again", steps["cut"]),
            ("own_drafted_tokens", "Tokens that the worker drafted itself", steps["drafted"]),
            ("own_accepted_tokens", "Of these, accepted", counters.worker_accepted),
            ("forced_tokens", "Decided without a choice, by a grammar", counters.forced),
            ("rounds", "Work items given to the engine", counters.items),
            ("verdicts", "Verdicts sent", counters.verdicts),
            ("prefix_hits", "Sessions that went on from an earlier text", counters.inherited),
            ("held_seconds", "Time that steps waited for sessions about to come back", worker.window.held),
            ("malformed", "Messages that could not be read", worker.malformed),
            (
                "unread_messages",
                "Messages of devices over their quota, which were not read",
                admission.refused,
            ),
            ("quota_answers", "Times that such a device was told", admission.told),
            ("overflow_messages", "Messages dropped from a full queue", worker.overflowed),
            ("held_back", "Rows put off as their device had more sessions than others", steps["held_back"]),
            (
                "slowed_prompt_tokens",
                "Tokens of prompts read slowly, as others had fewer read",
                steps["slowed"],
            ),
            ("surprises", "Events that the protocol's table has no row for", machine.surprises.total()),
        ):
            yield CounterMetricFamily(f"flexspec_worker_{name}", what, value=value)
        for name, what, value in (
            ("devices", "Devices whose quota of messages is kept account of", admission.devices),
            ("live_sessions", "Sessions whose text goes on", len(machine)),
            ("kept_texts", "Texts kept for their edges to go on from", machine.prefixes),
            ("capacity_sessions", "Live sessions that are taken", worker.settings.capacity),
            ("tasks", "Tasks of the event loop", len(asyncio.all_tasks())),
            ("ready", "1 if it takes new sessions", not worker.not_ready),
        ):
            yield _now(name, what, value)
        versions = {**dict.fromkeys(machine.versions, 0), **machine.live}
        yield _labelled(_NOW, "version_sessions", "Live sessions by target version", "version", versions)
        if (family := worker.family) is not None:
            states = Counter(dict.fromkeys(("loading", "ready", "draining", "refused"), 0))
            states.update(version.state for version in family.statuses())
            yield _labelled(_NOW, "versions", "Versions by what the worker says of them", "state", states)
            yield _now(
                "family_alarm", "1 if the family's catalogue has expired or is disputed", bool(family.alarm)
            )
        if ends := [document.expires for document in worker.dated]:
            what = "When the first of the signed documents expires that it goes by"
            yield _now("signed_expires_seconds", what, min(ends))
        if (memory := worker.engine.memory) is not None:
            yield _now("kv_bytes", "Keys and values held", memory.nbytes)
            if memory.limit is not None:
                yield _now("kv_limit_bytes", "Most keys and values held at any moment", memory.limit)
            gone = {"ended": memory.dropped, "live": memory.evicted}
            yield _labelled(_TOTAL, "evictions", "Keys and values dropped to make room", "of", gone)


_TOTAL, _NOW = CounterMetricFamily, GaugeMetricFamily


def _now(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"flexspec_worker_{name}", what, value=value)


def _labelled(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    name: str,
    what: str,
    label: str,
    values: Mapping[str, float],
) -> Metric:
    family = kind(f"flexspec_worker_{name}", what, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
