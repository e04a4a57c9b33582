"""Figures of a worker for Prometheus, in a registry of its own.

Numbers that are counted anyway are read when somebody asks; only times and sizes are noted as they come. Figures of the
whole worker that vLLM labels by model carry the version that the worker was started with.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.registry import Collector

from cloud_worker.engine.interface import StepResult
from flexspec_mq import entropy
from flexspec_mq.daemon import instruments
from flexspec_mq.daemon.instruments import MODEL, Instruments
from flexspec_mq.daemon.probes import Pages
from flexspec_mq.keys.refusals import KeyReason
from schemas.messages import Fin

if TYPE_CHECKING:
    from cloud_worker.worker import CloudWorker

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_SESSIONS = ("opened", "reopened", "inherited", "closed", "expired", "failed", "yielded")
"""Inherited ones went on from an earlier text; yielded ones gave their place to another device; others end by
their edge, their lease or a failure."""
_REFUSALS = ("busy", "over_quota", "need_prefix", "unknown", "rejected")
"""Opens without room, of these those of devices that hold what one may, opens of a prefix that is not here, drafts for
sessions that are not here, and illegal messages."""


class WorkerMetrics(Collector):
    """Figures of one worker: of its steps as they come, and what it counts anyway when somebody asks."""

    def __init__(self, worker: CloudWorker) -> None:
        self._worker = worker
        self._model = worker.settings.version
        self._steps = Counter[str]()
        self._versions = set[str]()  # those with a histogram of their own
        self._page = page = Instruments("flexspec_worker:")
        self._waited = page.histogram(
            "request_queue_time_seconds",
            "From the arrival of a text to the beginning of the forward that decided its first token",
            (0.01, 0.03, 0.1, *instruments.LATENCY),
            MODEL,
        )
        queue = "From a draft's arrival to the beginning of the forward that decided it"
        self._queue = page.histogram("round_queue_seconds", queue, _SECONDS)
        self._compute = page.histogram("compute_seconds", "Time of one forward", _SECONDS)
        self._batch = page.histogram("batch_sessions", "Sessions that shared one forward", _SIZES)
        self._fed = page.histogram(
            "iteration_tokens_total", "Tokens in one forward", instruments.ITERATION, MODEL
        ).labels(self._model)
        page.register(self)
        worker.on_step = self._step

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
            waited = max(0.0, began - item.waiting_since)
            self._queue.observe(waited)
            if not item.start:
                self._waited.labels(item.version).observe(waited)
                self._versions.add(item.version)

    def pages(self) -> Pages:
        """Pages that a worker shows over HTTP."""
        return self._page.pages(lambda: self._worker.not_ready)

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what the worker counts anyway."""
        yield from self._requests()
        yield from self._memory()
        machine, counters = self._worker.machine, self._worker.machine.counters
        worker, steps, admission = self._worker, self._steps, self._worker.admission
        total, now = self._page.total, self._page.now
        for name, what, table in (
            ("sessions", "Sessions by what became of them", _SESSIONS),
            ("refusals", "Messages answered with a typed error", _REFUSALS),
        ):
            yield total(name, what, {kind: getattr(counters, kind) for kind in table}, "kind")
        unbelieved = {reason.value: worker.refused.get(reason, 0) for reason in KeyReason}
        yield total("unbelieved", "Messages that its keys do not vouch for", unbelieved, "reason")
        for name, what, value in (
            ("edge_draft_tokens", "Tokens of edges' drafts given to the engine", counters.drafted),
            ("edge_accepted_tokens", "Right ones among them", counters.accepted),
            ("cut_tokens", "Tokens of edges' drafts put off for others' tokens, to come again", steps["cut"]),
            ("own_draft_tokens", "Tokens that the worker drafted itself", steps["drafted"]),
            ("own_accepted_tokens", "Right ones among them", counters.worker_accepted),
            ("forced_tokens", "Tokens decided without a choice, by a grammar", counters.forced),
            ("rounds", "Work items given to the engine", counters.items),
            ("verdicts", "Verdicts sent", counters.verdicts),
            ("held_seconds", "Time that steps waited for sessions about to come back", worker.window.held),
            ("deliveries", "Answers left at the broker for devices that were away", counters.delivered),
            (
                "undeliverable",
                "Opens that asked for a delivery and were promised none, for want of a place",
                counters.undeliverable,
            ),
            ("malformed", "Messages that could not be read", worker.malformed),
            (
                "unread_messages",
                "Messages of devices over their quota, which were not read",
                admission.refused,
            ),
            ("quota_answers", "Times that such a device was told", admission.told),
            ("overflow_messages", "Messages dropped from a full queue", worker.overflowed),
            ("held_back", "Sessions put off as their device had more than others", steps["held_back"]),
            (
                "slowed_prompt_tokens",
                "Tokens of prompts read slowly, as others had fewer read",
                steps["slowed"],
            ),
            (
                "protocol_violations",
                "Events that the protocol's table has no row for",
                machine.violations.total(),
            ),
        ):
            yield total(name, what, value)
        for name, what, value in (
            ("devices", "Devices whose quota of messages is kept account of", admission.devices),
            ("kept_texts", "Texts kept for their edges to go on from", machine.prefixes),
            ("delivery_places", "Answers promised to devices, or kept for them", len(machine.deliveries)),
            ("delivery_bytes", "Bytes that these may take at the broker", machine.deliveries.nbytes),
            ("capacity_sessions", "Live sessions that are taken", worker.settings.capacity),
            ("tasks", "Tasks of the event loop", len(asyncio.all_tasks())),
            ("ready", "1 if it takes new sessions", not worker.not_ready),
        ):
            yield now(name, what, value)
        if (family := worker.family) is not None:
            states = Counter(dict.fromkeys(("loading", "ready", "draining", "refused"), 0))
            states.update(version.state for version in family.statuses())
            yield now("versions", "Versions by what the worker says of them", states, "state")
            yield now(
                "family_alarm", "1 if the family's catalogue has expired or is disputed", bool(family.alarm)
            )
        if ends := [document.expires for document in worker.dated]:
            what = "When the first of the signed documents expires that it goes by"
            yield now("signed_expires_seconds", what, min(ends))

    def _requests(self) -> Iterator[Metric]:
        """Sessions and their tokens by version, as vLLM names them."""
        total, now, machine = self._page.total, self._page.now, self._worker.machine
        live = [session for session in machine.sessions.values() if session.ended is Fin.NONE]
        waiting = Counter(dict.fromkeys(machine.versions, 0))
        waiting.update(session.version for session in live if session.ready_since is not None)
        running = Counter(dict.fromkeys(machine.versions, 0))
        running.update(session.version for session in live if session.ready_since is None)
        yield now("num_requests_running", "Live sessions but for those that wait", running)
        yield now("num_requests_waiting", "Sessions whose next tokens wait for the engine", waiting)
        at = entropy.now()
        oldest = max(
            (at - session.owes_since for session in live if session.owes_since is not None), default=0
        )
        yield now("oldest_wait_seconds", "Age of the oldest draft without its verdict", oldest)
        versions = machine.counters.versions
        for version in machine.versions:
            _ = versions[version]  # a version that has no text yet is 0 and not missing
        for version in self._versions - versions.keys():
            self._page.forget(version)
        self._versions &= versions.keys()
        for name, what, field in (
            ("prompt_tokens", "Tokens of prompts", "prompt"),
            ("generation_tokens", "Tokens decided", "decided"),
            ("prefix_cache_queries", "Tokens of prompts", "prompt"),
            ("prefix_cache_hits", "Tokens of prompts kept from an earlier text", "known"),
        ):
            yield total(name, what, {name: getattr(version, field) for name, version in versions.items()})
        yield from self._page.drafts({name: version.drafts for name, version in versions.items()})

    def _memory(self) -> Iterator[Metric]:
        if (memory := self._worker.engine.memory) is None:
            return
        total, now = self._page.total, self._page.now
        yield now("kv_bytes", "KV cache held", memory.nbytes)
        if memory.limit is not None:
            yield now("kv_limit_bytes", "Most KV cache held at any moment", memory.limit)
            used = {self._model: memory.nbytes / memory.limit if memory.limit else 1.0}
            yield now("kv_cache_usage_perc", "Part of these that is held, 1 is all", used)
        what = "Live sessions whose KV cache was dropped to make room, and is read again"
        yield total("num_preemptions", what, {self._model: memory.evicted})
        yield total("evictions", "KV caches of ended texts dropped to make room", memory.dropped)
