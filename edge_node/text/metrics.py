"""Figures for Prometheus, in a registry of the app's own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Metric
from prometheus_client.registry import Collector

from edge_node.text.machine import Text
from edge_node.text.spec import WHOLE_CONTEXT
from flexspec_mq.catalogue.refusals import Reason
from flexspec_mq.daemon import instruments
from flexspec_mq.daemon.instruments import MODEL, Instruments
from flexspec_mq.daemon.tally import DraftTally
from flexspec_mq.keys.refusals import KeyReason as NotBelieved
from flexspec_mq.protocol.edge.types import EdgeState
from schemas.node import TextFigures
from schemas.openai import LOCAL_ONLY

if TYPE_CHECKING:
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode
    from edge_node.outbox.outbox import Outbox
    from edge_node.text.generator import Writing

_REASONS = {
    "stop": "stop",
    "length": "length",
    "provisional": "provisional",
    "failed": "error",
    "cancelled": "abort",
    "stopped": "abort",
    "deadline": "deadline",
}
"""Why a text ended, in vLLM's words; a deadline and a text whose end nobody has verified are ours."""
_HISTOGRAMS = (
    ("time_to_first_token_seconds", "Request to first token", instruments.FIRST_TOKEN),
    ("inter_token_latency_seconds", "Between two commits of a text", instruments.BETWEEN_TOKENS),
    ("e2e_request_latency_seconds", "Request to the end of a complete text", instruments.LATENCY),
    ("request_decode_time_seconds", "First commit to the end of it", instruments.LATENCY),
    (
        "request_time_per_output_token_seconds",
        "Mean of it after its first commit",
        instruments.BETWEEN_TOKENS,
    ),
    ("request_prompt_tokens", "Tokens of its prompt", instruments.TOKENS),
    ("request_generation_tokens", "Tokens of it", instruments.TOKENS),
    ("request_params_max_tokens", "Limit that its request names", instruments.TOKENS),
)
_MOST_VERSIONS = 8
"""Versions that have figures, those that a text began of last: the page of eight takes 9 ms of the event loop."""


@dataclass(slots=True)
class _Sums:
    """Sums over texts of one version.

    Attributes:
        drafts: drafts that the target judged.
        origins: tokens by who drafted them.
        rounds: verdicts that committed.
        provisional: tokens that the draft wrote alone.
        confirmed: provisional tokens that the target wrote as well.
    """

    drafts: DraftTally = field(default_factory=DraftTally)
    origins: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    provisional: int = 0
    confirmed: int = 0

    def add(self, generation: Generation) -> None:
        """Count what a session has shown."""
        counters, patience = generation.machine.counters, generation.patience
        self.drafts.add(counters.drafts)
        device = counters.accepted - counters.looked_up_accepted
        others = counters.accepted + counters.worker_accepted + counters.forced
        self.origins.update(
            device=device,
            lookup=counters.looked_up_accepted,
            worker=counters.worker_accepted,
            grammar=counters.forced,
            target=counters.committed - others,
        )
        self.rounds += counters.rounds
        self.provisional += patience.shown
        self.confirmed += patience.confirmed


class Metrics(Collector):
    """All figures of one app, which is told what happens to its texts.

    Args:
        node: read whenever the page is made.
        outbox: read likewise.

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

    def __init__(self, node: EdgeNode, outbox: Outbox) -> None:
        self._node = node
        self._outbox = outbox
        self._texts: dict[Text, Writing | None] = {}  # None: without a session yet
        self._sums: dict[str, _Sums] = {}
        self._page = page = Instruments("flexspec_edge:")
        counter = page.counter
        self.requests = counter("http_requests", "HTTP requests", "endpoint", "status")
        self.refused = counter("refused", "Clients kept out or cut short", "reason")
        self._success = counter("request_success", "Texts that ended", MODEL, "finished_reason")
        self._prompt = counter("prompt_tokens", "Tokens of prompts of texts that have begun", MODEL)
        self._generation = counter("generation_tokens", "Tokens committed", MODEL)
        self._first, self._between, *complete = (
            page.histogram(name, about, bounds, MODEL) for name, about, bounds in _HISTOGRAMS
        )
        self._complete = tuple(complete)
        self._bytes = counter("bytes", "MQTT payload of sessions", "way")
        self._energy = counter("energy_joules", "Taken by texts, each as if alone", "source")
        self._limits = counter("limits", "Texts that ended, by how a limit stood", "limit", "state")
        page.gauge("tasks", "Tasks of the event loop").set_function(lambda: len(asyncio.all_tasks()))
        page.gauge("link_up", "1 while connected to the broker").set_function(lambda: node.link.is_up)
        page.register(self)

    def started(self, text: Text) -> None:
        """A text is asked for."""
        self._texts[text] = None

    def began(self, text: Text, writing: Writing) -> None:
        """It has a session."""
        self._texts[text] = writing

    def committed(self, writing: Writing, tokens: int, seconds: float, *, first: bool) -> None:
        """Tokens came, so many seconds after the ones before, or after the request."""
        version = writing.version
        if first:
            self._known(version)
            self._first.labels(version).observe(seconds)
            self._prompt.labels(version).inc(len(writing.generation.request.prompt))
        else:
            self._between.labels(version).observe(seconds)
        self._generation.labels(version).inc(tokens)

    def took(self, text: Text, figures: TextFigures) -> None:
        """Its session is over."""
        self.tokens, self.newest = self.tokens + figures.tokens, figures
        text.version = figures.version
        if (writing := self._texts.pop(text, None)) is not None and (figures.tokens or figures.provisional):
            self._known(writing.version).add(writing.generation)
        self._bytes.labels("up").inc(figures.bytes_up)
        self._bytes.labels("down").inc(figures.bytes_down)
        if figures.energy_j is not None:
            self.energy_j = (self.energy_j or 0.0) + figures.energy_j
            self._energy.labels(figures.energy_source).inc(max(figures.energy_j, 0.0))
        for limit in figures.limits:
            self._limits.labels(limit.name, limit.state).inc()

    def ended(self, text: Text, outcome: str) -> None:
        """A text is over: ``stop``, ``length``, ``deadline``, ``failed``, ``cancelled`` or ``stopped``."""
        self._texts.pop(text, None)
        model = self._model(text.version)
        self._success.labels(model, _REASONS[outcome]).inc()
        if text.end is None or (figures := text.end.figures) is None or figures.first_token is None:
            return
        decode = figures.seconds - figures.first_token
        each = decode / (figures.tokens - 1) if figures.tokens > 1 else None
        limit = None if text.spec.limit == WHOLE_CONTEXT else text.spec.limit
        values = (figures.seconds, decode, each, figures.prompt_tokens, figures.tokens, limit)
        for histogram, value in zip(self._complete, values, strict=True):
            if value is not None:
                histogram.labels(model).observe(value)

    def page(self) -> bytes:
        """The page that Prometheus reads; made on the event loop."""
        return self._page.page()

    def _known(self, version: str) -> _Sums:
        """Sums of a version that writes; the one of which a text began the longest ago makes room for a new one."""
        if (sums := self._sums.pop(version, None)) is None:
            sums = _Sums()
            for reason in _REASONS.values():  # a rate of errors needs their 0
                self._success.labels(version, reason)
        self._sums[version] = sums
        while len(self._sums) > _MOST_VERSIONS:
            gone = next(iter(self._sums))
            del self._sums[gone]
            self._page.forget(gone)
        return sums

    def _model(self, version: str) -> str:
        """Label of a version: itself if it has written or is served, else the default's, as names are the client's."""
        known = version == LOCAL_ONLY or version in self._sums or version in self._node.directory.versions()
        return version if known else self._node.models.default

    def collect(self) -> Iterator[Metric]:
        """Make metrics of what is counted anyway."""
        node, total, now = self._node, self._page.total, self._page.now
        yield from self._requests()
        state = node.state.look().state
        states = {name: state == name for name in ("online", "degraded", "offline")}
        yield now("state", "1 for the state of the node, 0 for the others", states, "state")
        yield now("outbox", "Requests in the outbox; unread are answers", self._outbox_states(), "state")
        offline = "Seconds without a link to the broker"
        yield total("offline_seconds", offline, node.link.offline_seconds)
        violations = "Events that the protocol's table has no row for"
        yield total("protocol_violations", violations, node.violations)
        unbelieved = {reason.value: node.refused.get(reason, 0) for reason in NotBelieved}
        yield total("unbelieved", "Messages that no worker's keys vouch for", unbelieved, "reason")
        for statement in node.wire.dated:
            expires = "When the deployment's statement expires"
            yield now("statement_expires_seconds", expires, statement.expires)
        if (family := node.models.followed) is not None:
            yield from self._family(family)

    def _outbox_states(self) -> dict[str, int]:
        """Requests in the outbox by state."""
        states = ("queued", "writing", "stale", "unread", "done", "failed")
        return dict.fromkeys(states, 0) | self._outbox.counts

    def _requests(self) -> Iterator[Metric]:
        """Texts by version, those that are being written among them."""
        node, total, now = self._node, self._page.total, self._page.now
        sums = deepcopy(self._sums)
        models = {node.models.default, *sums}
        running, waiting = Counter(dict.fromkeys(models, 0)), Counter(dict.fromkeys(models, 0))
        for text, writing in self._texts.items():
            model = self._model(text.version if writing is None else writing.version)
            active = writing is not None and writing.generation.machine.state is EdgeState.ACTIVE
            place = running if active and node.link.is_up else waiting
            place[model] += 1
            if writing is not None:
                sums.setdefault(model, _Sums()).add(writing.generation)
        yield now("num_requests_running", "Texts that a worker writes with the node", running)
        yield now(
            "num_requests_waiting", "Texts that wait for the link, a worker or its first answer", waiting
        )
        yield from self._page.drafts({model: its.drafts for model, its in sums.items()})
        for name, about, counted in (
            ("rounds", "Verdicts that committed", "rounds"),
            ("provisional_tokens", "Tokens that the draft wrote alone while nobody answered", "provisional"),
            ("provisional_confirmed_tokens", "Those that the target wrote as well", "confirmed"),
        ):
            yield total(name, about, {model: getattr(its, counted) for model, its in sums.items()})
        yield total(
            "generation_tokens_by_origin",
            "Tokens committed, by who had drafted them; the target's own were drafted by nobody",
            {(model, name): count for model, its in sums.items() for name, count in its.origins.items()},
            MODEL,
            "origin",
        )
        if node.models.followed is not None:
            failures = Counter[str]()
            for version in node.status.tally.figures():
                failures[version.name] += version.errors
            yield total("version_failures", "Texts that workers of a version failed", failures)

    def _family(self, family: FamilyCatalogue) -> Iterator[Metric]:
        status = family.status()
        for name, about, value in (
            ("epoch_seconds", "When it was issued; 0 without any", status.epoch),
            ("expires_seconds", "When it expires; 0 without any", status.expires),
            ("keys_expires_seconds", "When its key set expires; 0 without any", family.keys_expire),
            ("expired", "1 past its expiry", status.state == "expired"),
            ("alarm", "1 once two signed messages had one number", bool(status.alarm)),
        ):
            yield self._page.now(f"catalogue_{name}", about, value)
        refused = {reason.value: family.refused[reason] for reason in Reason}
        yield self._page.total("catalogue_refused", "Messages on its topics refused", refused, "reason")
