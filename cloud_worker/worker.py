"""The daemon: messages in, steps, messages out.

Three loops share one protocol machine, all on the event loop: messages go in as they come, the step loop hands
work to the engine's thread and takes results back, and the timer ends leases. Messages that the machine wants sent go
through one bounded queue. A loop that dies takes the worker down, loudly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from mmap import mmap
from typing import TYPE_CHECKING, Literal

from cloud_worker.admission import ANSWER, MESSAGE, TURNED_AWAY, MessageAdmission
from cloud_worker.compiling import GrammarCompiler, OpenRefused
from cloud_worker.engine.interface import Engine, StepResult
from cloud_worker.engine.thread import Change, EngineThread
from cloud_worker.settings import QuotaSettings, WorkerSettings
from cloud_worker.tracing import SessionSpans
from cloud_worker.wire import WorkerWire
from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec import Codec, TooManyTokens
from flexspec_mq.daemon.dated import Dated, ExpiryLog, lapsed
from flexspec_mq.daemon.expiring import LogThrottle
from flexspec_mq.daemon.tasks import endless
from flexspec_mq.errors import GrammarError, LinkDown, PublishRefused, RemoteProtocolError, UsageError
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.protocol.effects import Deliver, Free, ReleaseToCache, Reply, Transfer, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import ALL_ROWS, VersionFacts, WorkerConfig
from flexspec_mq.scheduling.batching_window import BatchingWindow
from flexspec_mq.share_groups import read_groups
from flexspec_mq.telemetry import Telemetry
from flexspec_mq.transport.base import Inbound, LinkSettings, LinkUpEvent, Outbound, Subscription
from flexspec_mq.transport.blobs import BlobHolder
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.needs import FOR_SESSIONS
from flexspec_mq.transport.publish_queue import PublishQueue
from schemas.messages import (
    AS_THE_TARGET,
    MAX_DRAFT_TOKENS,
    PROTOCOL_VERSION,
    Close,
    Draft,
    Error,
    ErrorCode,
    Open,
    Poll,
    Verdict,
)
from schemas.status import MAX_MS, MAX_TEXT, VersionStatus, WorkerStatus

if TYPE_CHECKING:
    from cloud_worker.versions.follower import FamilyFollower

_log = logging.getLogger(__name__)

_ROUTINE = (ErrorCode.BUSY, ErrorCode.UNKNOWN)


class CloudWorker:
    """A worker of one target version, or of those of a family.

    Args:
        settings: Settings of the worker.
        engine: decides tokens; used on one thread of its own.
        family: keeps its versions those of a family.
        quotas: Quotas of each device.
        telemetry: told of sessions; None where nobody wants it.

    Attributes:
        machine: the protocol machine; read its counters.
        window: Batching window; read how long steps were held.
        admission: Admission of devices' messages; read its counters.
        ready: set when the link is up for the first time.
        malformed: messages that could not be read.
        on_step: told of every step, and when it began.

    Raises:
        UsageError: the file with the groups of versions cannot be used.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        family: FamilyFollower | None = None,
        quotas: QuotaSettings | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._quotas = quotas = quotas or QuotaSettings()
        facts = engine.facts
        self.family = family
        self._compiling: set[asyncio.Task[None]] = set()
        self.settings = settings
        self._groups = read_groups(settings.share_groups)
        versions = (settings.version, *filter(self._permitted, facts.versions[1:]))
        self._codec = Codec()
        self._wire = WorkerWire(settings, facts.max_context + MAX_DRAFT_TOKENS)
        self.engine = engine
        self.machine = WorkerMachine(
            WorkerConfig(
                worker=settings.worker,
                versions=versions,
                facts=VersionFacts(
                    facts.fingerprint,
                    facts.max_context,
                    facts.vocab_size,
                    facts.recommended.over(AS_THE_TARGET),
                    facts.tokenizer,
                    facts.penalties,
                    facts.writes,
                ),
                capacity=min(settings.capacity, facts.slots or settings.capacity),
                room=facts.room,
                lease=settings.lease,
                prefixes=settings.capacity if facts.keeps else 0,
                device_sessions=quotas.device_sessions,
                device_tokens=quotas.device_tokens,
                deliver_for=quotas.deliver_for,
                device_deliveries=quotas.device_deliveries,
                deliver_bytes=1_000_000 * quotas.deliver_mb,
            )
        )
        self.admission = MessageAdmission(
            quotas, settings.worker, lambda reply: self._do([reply]), keyed=settings.keys is not None
        )
        self._spans = None if telemetry is None else SessionSpans(telemetry, settings.worker)
        self._compiler = GrammarCompiler(engine.grammars, self.admission)
        self._epoch = round(1000 * entropy.wall())
        self._incarnation = entropy.bits(32)
        self._told_at = 0.0
        self._linked: float | None = None
        self._dates = ExpiryLog()
        self._lapsed = ""
        self._work = asyncio.Event()
        self._timer = asyncio.Event()
        self._emptied = asyncio.Event()
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()
        self._shares = {*versions}
        if family is not None:
            # Which base its name is for, a catalogue says; until then it is not held.
            self._shares.clear()
            self.machine.retire(settings.version)
        self._changes: list[Change] = []
        self.window = BatchingWindow()
        self._publish_queue = PublishQueue()
        blobs: dict[str, bytes | mmap] = {}
        if facts.tokenizer and facts.file:
            blobs[facts.tokenizer.file] = facts.file
        if facts.offer and facts.offered:
            blobs[facts.offer.file] = facts.offered
        self._blobs = BlobHolder(blobs, self._publish_queue.flush)
        self._throttle = LogThrottle()
        self.malformed = 0
        self.on_step: Callable[[StepResult, float], None] | None = None
        self._link: Link | None = None

    @property
    def not_ready(self) -> str:
        """Why it takes no new sessions now; empty if it does, as far as there is room."""
        if self._link is None or not self._link.is_up:
            return "not connected to the broker"
        return self._lapsed or ("draining" if self.machine.draining else "")

    @property
    def refused(self) -> Mapping[KeyReason, int]:
        """Messages that were not believed, by reason."""
        return self._wire.refusals.counts

    @property
    def overflowed(self) -> int:
        """Messages that were dropped since the link was made, as too many waited to be read."""
        return 0 if self._link is None else self._link.counters.inbound_dropped

    def stop(self) -> None:
        """Drain: take no new sessions, let those that are here end, then return from `run`."""
        self._stopping.set()

    def link_settings(self, base: LinkSettings) -> LinkSettings:
        """`base` with this worker's will, birth and subscriptions.

        Drafts are subscribed before the share, so that an answered open can always be followed by a draft.
        """
        gone = self._wire.status(self._status("gone"))
        return replace(
            base,
            session_expiry=0,
            awaited=lambda: True,  # by devices, of which it cannot know without a link
            inbound_bytes=1_000_000 * self._quotas.inbound_mb,
            admit=self.admission.admit,
            needs=FOR_SESSIONS,
            will=Outbound(topics.worker_status_topic(self.settings.worker), gone, 1, retain=True),
            birth=lambda: [*self._target_text(), *self._birth()],
            subscriptions=(
                Subscription(topics.draft_filter(self.settings.worker)),
                Subscription(topics.blob_request_topic(self.settings.worker, "+")),
                *self._wire.subscriptions,
                *(Subscription(self._open_share(version)) for version in self._shares),
                *(() if self.family is None else self.family.subscriptions),
            ),
        )

    async def run(self, connect: LinkFactory, base: LinkSettings) -> None:
        """Serve until `stop`, then drain and leave.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
        """
        thread = EngineThread(self.engine)
        try:
            async with connect(self.link_settings(base)) as link, asyncio.TaskGroup() as group:
                self._link = link
                more = () if self.family is None else (("family", self.family.run, self, thread),)
                if (requests := self.engine.requests) is not None:
                    more = (*more, ("requests", requests.run, link, self.settings.worker))
                loops = [
                    group.create_task(endless(name, loop, *args), name=name)
                    for name, loop, *args in (
                        ("receive", self._receive_loop, link),
                        ("step", self._step_loop, thread),
                        ("timer", self._timer_loop),
                        ("publish", self._publish_queue.run, link),
                        ("blobs", self._blobs.run, link),
                        *more,
                    )
                ]
                await self._stopping.wait()
                await self._drain()
                for loop in loops:
                    loop.cancel()
        except ExceptionGroup as died:  # what killed the first of the loops
            raise died.exceptions[0] from None
        finally:
            self._link = None
            thread.close()
            self.engine.close()
            self._compiler.close()
            if self._spans is not None:
                self._spans.close()
            for task in self._compiling:
                task.cancel()

    async def _drain(self) -> None:
        """Leave the share first, give the sessions that are here time to end, and send the others elsewhere."""
        _log.info("draining: %d sessions, up to %.0f s", len(self.machine), self.settings.drain)
        self._do(self.machine.drain(entropy.now()))
        for version in self._shares.copy():
            await self.leave_version(version)
        self.publish_status()
        try:
            async with asyncio.timeout(self.settings.drain):
                while len(self.machine):
                    self._emptied.clear()
                    await self._emptied.wait()
        except TimeoutError:
            _log.warning("%d sessions did not end in time and go to other workers", len(self.machine))
        self._do(self.machine.release(entropy.now()))
        if not await self._publish_queue.flush(waiting.FAREWELL):
            _log.warning("left with %d messages unpublished", len(self._publish_queue))

    async def _look_at_dates(self, now: float) -> None:
        """Take no new sessions while a signed document that says whom to believe has expired; those here go on."""
        if self._linked is None or now < self._linked + waiting.RETAINED or self._stopping.is_set():
            return
        self._dates.look(self.dated, entropy.wall())
        trouble = self.engine.trouble
        before, self._lapsed = self._lapsed, trouble or lapsed(self.dated, entropy.wall())
        if trouble and self.machine.sessions:  # which need not wait for what may take minutes
            self._do(self.machine.release(now))
        if bool(before) == bool(self._lapsed):
            return
        if self._lapsed:
            self._do(self.machine.drain(now))
            for version in self._shares.copy():
                await self.leave_version(version)
        else:
            self.machine.resume()
            for version in tuple(self.machine.versions):
                await self.open_version(version)
        self.publish_status()

    @property
    def dated(self) -> tuple[Dated, ...]:
        """Signed documents that this worker goes by, which expire."""
        return (*self._wire.dated, *(() if self.family is None else self.family.dated))

    async def open_version(self, version: str) -> None:
        """Take new sessions of a version that the engine holds; not while the worker drains."""
        self.machine.hold(version)
        if self._link is None or self.machine.draining or version in self._shares:
            return
        try:
            share = self._open_share(version)
        except UsageError as error:
            _log.error("version %s is not served: %s; %s", version, error.message, error.hint)
            return
        self._shares.add(version)
        # While the link is down the filter is remembered.
        with contextlib.suppress(LinkDown):
            await self._link.subscribe(share)

    def retire_version(self, version: str) -> None:
        """Take no new sessions of a version; texts of it that have begun go on, also at another worker."""
        self._do(self.machine.retire(version))

    def _permitted(self, version: str) -> bool:
        """Whether the deployment lets this worker serve a version."""
        try:
            self._groups.group_of(version)
        except UsageError as error:
            _log.warning("model %s is no version here: %s; %s", version, error.message, error.hint)
            return False
        return True

    def _open_share(self, version: str) -> str:
        return topics.open_share(version, self._groups.group_of(version))

    async def leave_version(self, version: str) -> None:
        """Take no opens of a version any more."""
        self._shares.discard(version)
        if self._link is None:
            return
        # Also while the link is down: the filter is forgotten all the same, so the next connection is without it.
        try:
            await self._link.unsubscribe(self._open_share(version))
        except LinkDown as error:
            _log.info("the share of %s was left without a word: %s", version, error.message)

    async def _receive_loop(self, link: Link) -> None:
        async for event in link.events():
            if isinstance(event, Inbound):
                self._receive(event)
            else:
                _log.info("%s", event)
                if self.family is not None:
                    self.family.upkeep.linked(up=isinstance(event, LinkUpEvent))
                if isinstance(event, LinkUpEvent):
                    self._linked = self._linked or entropy.now()
                    self.ready.set()

    def _receive(self, inbound: Inbound) -> None:
        if self.family is not None and self.family.receive(inbound.topic, inbound.payload):
            return
        if inbound.topic == topics.statement_topic():
            self._receive_statement(inbound.payload)
            return
        sender = topics.sender_of(inbound.topic)
        if sender is None:
            self._receive_piece(inbound)
            return
        if inbound.topic == topics.blob_request_topic(self.settings.worker, sender.edge):
            try:
                self._blobs.ask(sender.edge, inbound.payload)
            except RemoteProtocolError as error:
                self._refuse(sender.edge, error.message, entropy.now())
            return
        began = time.thread_time()
        if not isinstance(self._read(*sender, inbound), Draft):  # one that is verified is given back
            self.admission.took(inbound.topic, len(inbound.payload), 1000 * (time.thread_time() - began))

    def _receive_piece(self, inbound: Inbound) -> None:
        try:
            taken = self.engine.requests is not None and self.engine.requests.take(
                inbound.topic, inbound.payload
            )
        except RemoteProtocolError as error:
            taken = False
            _log.debug("a piece of a request cannot be read: %s", error.message)
        self.malformed += not taken

    def _read(self, edge: str, version: str | None, inbound: Inbound) -> Open | Draft | Poll | Close | None:
        """Carry out a message of a device, if it can be read."""
        now = entropy.now()
        try:
            message, version = self._wire.decode(edge, version, inbound.payload, now)
        except TooManyTokens as error:
            code, qos = ErrorCode.CONTEXT, inbound.qos
            self._do(self.machine.refuse(edge, error.session, error.attempt, code, error.message, qos))
            return None
        except KeysRefused as error:
            answer = self._wire.refused(edge, inbound.payload, error, now)
            if answer is not None:
                self.admission.charge(edge, ANSWER)
                self._publish_queue.put(Outbound(topics.verdict_topic(edge), answer, inbound.qos))
            return None
        except RemoteProtocolError as error:
            self._refuse(edge, error.message, now)
            return None
        known = (edge, message.session) in self.machine.sessions
        if isinstance(message, Open):
            _log.info("session %s/%d: open, attempt %d", edge, message.session, message.attempt)
        if isinstance(message, Open) and not known and not self._compiler.has(message):
            task = asyncio.create_task(self._take_compiled(edge, message, inbound, version))
            self._compiling.add(task)
            task.add_done_callback(self._compiling.discard)
        else:
            self._take(edge, message, now, inbound, version)
        return message

    async def _take_compiled(self, edge: str, message: Open, inbound: Inbound, version: str | None) -> None:
        try:
            await self._compiler.compile(edge, message)
        except OpenRefused as error:
            self.admission.charge(edge, TURNED_AWAY if error.code is ErrorCode.BUSY else ANSWER)
            session, attempt = message.session, message.attempt
            self._do(self.machine.refuse(edge, session, attempt, error.code, error.message, inbound.qos))
        else:
            self._take(edge, message, entropy.now(), inbound, version)

    def _take(
        self,
        edge: str,
        message: Open | Draft | Poll | Close,
        now: float,
        inbound: Inbound,
        version: str | None,
    ) -> None:
        counters = self.machine.counters
        over, undeliverable = counters.over_quota, counters.undeliverable
        effects = self.machine.receive(edge, message, now, inbound.qos, version)
        if self._spans is not None and isinstance(message, Open):
            self._spans.opened(
                message, self.machine.sessions.get((edge, message.session)), inbound.properties
            )
        if counters.over_quota > over:
            self.admission.charge(edge, TURNED_AWAY)
        if counters.undeliverable > undeliverable and self._throttle.due(edge, "undeliverable", now):
            _log.warning("session %s/%d: no place to keep its answer", edge, message.session)
        self.admission.charge(edge, ANSWER * sum(isinstance(effect, Reply) for effect in effects))
        self._do(effects, message if isinstance(message, Close) else None)

    def _receive_statement(self, payload: bytes) -> None:
        keys = self._wire.keys
        try:
            if keys is None or not keys.trust.take(payload):
                return
        except KeysRefused as error:
            self._wire.refusals.refused(f"on {topics.statement_topic()}", error, entropy.now())
            return
        _log.info("statement %d of the deployment is in force", keys.trust.statement.serial)
        self._timer.set()
        if keys.trust.revoked:
            _log.error("this worker was revoked: no device believes it any more")
        for version in filter(keys.outdated, sorted(self._shares)):
            _log.error(
                "this worker lacks the opening key of version %s: give it its new file of --keys, and restart it",
                version,
            )

    def _refuse(self, edge: str, why: str, now: float) -> None:
        """Count what cannot be read, and tell the edge, though not every time."""
        self.malformed += 1
        if self._wire.may_tell(edge, now):
            if self._throttle.due(edge, "unreadable", now):
                _log.warning("edge %s sent what cannot be read: %s", edge, why)
            error = Error(0, 0, ErrorCode.MALFORMED, 0, self.settings.worker, why[:300])
            self._do([Reply(edge, error, 0)])

    def _do(self, effects: Sequence[WorkerEffect], closes: Close | None = None) -> None:
        """Carry out what the machine wants. A roll-back needs nothing: the engine compares prefixes itself.

        Args:
            effects: effects of the machine, in order.
            closes: message of an edge that they follow, if it ends a session.
        """
        if self._spans is not None:
            self._spans.note(effects, closes)
        for effect in effects:
            if isinstance(effect, Reply):
                self._reply(effect)
            elif isinstance(effect, Deliver):
                self._deliver(effect)
            elif isinstance(effect, Free | ReleaseToCache | Transfer):
                _log.debug("session %s/%d: %s", *effect.key, type(effect).__name__.lower())
                self._changes.append(effect)
                self.window.forget(effect.key)
                if effect.key not in self.machine.sessions:
                    self._wire.forget(*effect.key)
                if self.family is not None:
                    self.family.ended()
        if self._changes or self.machine.ready():
            self._work.set()
            self.engine.wake()
        self._timer.set()
        self._emptied.set()

    def _reply(self, effect: Reply) -> None:
        edge, message, now = effect.edge, effect.message, entropy.now()
        if isinstance(message, Error) and message.session and message.code not in _ROUTINE:
            name, why = message.code.name.lower(), message.detail
            if self._throttle.due(edge, name, now):
                _log.warning("session %s/%d: refused, %s %s", edge, message.session, name, why)
        payload = self._wire.encode(edge, message, now)
        if payload is not None:
            self._publish_queue.put(Outbound(topics.verdict_topic(edge), payload, effect.qos))
        if isinstance(message, Verdict) and message.delivers:
            self._wire.keep(edge, message.session, now)

    def _deliver(self, effect: Deliver) -> None:
        """Have the broker keep an answer, or forget it."""
        (edge, session), message, now = effect.key, effect.message, entropy.now()
        payload = b"" if message is None else self._wire.encode(edge, message, now)
        if payload is None:
            self.machine.undelivered(effect.key, now, again=False)
            return
        if message is not None:
            _log.info("session %s/%d: %d tokens left at the broker", edge, session, len(message.tokens))
        topic, expiry = topics.delivery_topic(edge, session), effect.keep or None
        self._publish_queue.put(
            Outbound(topic, payload, 1, retain=True, expiry=expiry), partial(self._undelivered, effect)
        )

    def _undelivered(self, effect: Deliver, error: LinkDown | PublishRefused) -> None:
        edge, session = effect.key
        if self._throttle.due(edge, "undelivered", entropy.now()):
            _log.warning("session %s/%d: not left at the broker: %s", edge, session, error.message)
        if effect.message is not None:
            self.machine.undelivered(effect.key, entropy.now(), again=isinstance(error, LinkDown))
            self._timer.set()

    async def _step_loop(self, thread: EngineThread) -> None:
        while True:
            if thread.idle:
                await self._work.wait()
            await self._await_others()
            self._work.clear()
            began = entropy.now()
            changes, self._changes = self._changes, []
            items = self.machine.take_work(began, self.settings.batch)
            self.window.took(items)
            done = await thread.round(changes, items)
            now = entropy.now()
            self.machine.stepped(now - began)
            if self.engine.trouble and not self._lapsed:
                self._timer.set()
            if self.machine.full is not self.engine.full:
                self.machine.full = self.engine.full
                self.publish_status()
            if any(result.batch for result in done.results):
                self.window.stepped(now - began)
            for result in done.results:
                self._take_result(result, began, now)
            for item in done.failed:
                self._do(self.machine.failed(item, now))

    def _take_result(self, result: StepResult, began: float, now: float) -> None:
        if self.on_step is not None:
            self.on_step(result, began)
        for item, tokens in result.decided:
            if self._spans is not None:
                self._spans.decided(item, tokens, result, began)
            self.window.answered(item.key, now)
            self.admission.charge(item.key[0], -MESSAGE * item.batches)
            rows, ms = result.rows.get(item.key, ALL_ROWS), result.times.get(item.key)
            compute_ms, computing = (result.compute_ms, began) if ms is None else (ms, now - ms / 1000)
            queue = max(0, int(1000 * (computing - item.waiting_since)))
            self._do(self.machine.result(item, tokens, queue, compute_ms, now, rows))
        for item, error in result.failed:
            if isinstance(error, GrammarError):  # it takes too long, or allows nothing
                self.admission.charge(item.key[0], TURNED_AWAY)
            self._do(self.machine.failed(item, now, error))

    async def _await_others(self) -> None:
        """Wait a moment for sessions that were just answered, if all are better off in one step with them."""
        began = now = entropy.now()
        ready = self.machine.ready()
        while len(ready) < self.settings.batch and (wait := self.window.wait(ready, now)) > 0:
            self._work.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._work.wait()
            except TimeoutError:
                break
            now, ready = entropy.now(), self.machine.ready()
        self.window.held += entropy.now() - began

    async def _timer_loop(self) -> None:
        status_due = -inf
        while True:
            self._timer.clear()
            now = entropy.now()
            due = self.machine.next_tick()
            if due is not None and due <= now:
                self._do(self.machine.tick(now))
                due = self.machine.next_tick()
            await self._look_at_dates(now)
            if now >= status_due:
                status_due = now + self.settings.status_every
                self.publish_status()
            wake = status_due if due is None else min(due, status_due)
            if self.engine.trouble:
                wake = min(wake, now + waiting.RETRY_AWAITED)
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + wake - now):
                    await self._timer.wait()
            except TimeoutError:
                continue

    def publish_status(self) -> None:
        """Renew the retained status; while the link is down the next birth will do it."""
        if self._link is not None and self._link.is_up:
            for message in self._birth():
                self._publish_queue.put(message)

    async def retain(self, topic: str, payload: bytes) -> None:
        """Have the broker keep a message of the family."""
        if self._link is None:
            raise LinkDown("the worker has no link")
        await self._link.publish(topic, payload, qos=1, retain=True)

    def _target_text(self) -> Sequence[Outbound]:
        if (text := self.engine.facts.text) is None:
            return ()
        topic = topics.target_text_topic(self.settings.worker)
        return [Outbound(topic, self._codec.encode_target_text(text), 1, retain=True)]

    def _birth(self) -> Sequence[Outbound]:
        state: Literal["online", "draining"] = "draining" if self.machine.draining else "online"
        topic = topics.worker_status_topic(self.settings.worker)
        return [Outbound(topic, self._wire.status(self._status(state)), 1, retain=True)]

    def _status(self, state: Literal["online", "draining", "gone"]) -> WorkerStatus:
        settings, facts = self.settings, self.engine.facts
        timings = facts.timings
        # A device takes no status that is not later than the last, and clocks are set back.
        self._told_at = max(entropy.wall(), self._told_at + 0.001)
        return WorkerStatus(
            state=state,
            epoch=self._epoch,
            at=self._told_at,
            worker=settings.worker,
            version=next(iter(self.machine.versions), ""),
            protocol=PROTOCOL_VERSION,
            fingerprint=facts.fingerprint.hex(),
            exactness=facts.exactness,
            flip_rate=facts.flip_rate,
            device=facts.device,
            dtype=facts.dtype,
            weights=facts.weights,
            load=len(self.machine),
            capacity=len(self.machine)
            if entropy.now() < self.machine.full.until
            else min(settings.capacity, facts.slots or settings.capacity),
            lease=settings.lease,
            recommended=facts.recommended,
            draft=facts.draft,
            versions=tuple(VersionStatus(name=name) for name in self.machine.versions if facts.versions)
            if self.family is None
            else self.family.statuses(),
            life=self._incarnation,
            tokenizer=facts.tokenizer,
            forward_ms=None if timings is None else _bounded(timings.forward),
            row_ms=None if timings is None else _bounded(timings.row),
            grammar=facts.grammar,
            target=facts.target[:MAX_TEXT],
            offer=facts.offer,
            request_bytes=facts.request_bytes,
            image_bytes=facts.image_bytes,
            draft_ms=None if timings is None else _bounded(timings.token),
            draft_read_ms=None if timings is None else _bounded(timings.holds_up),
        )


def _bounded(ms: float | None) -> float | None:
    """As a status tells it, in as few digits as are of use."""
    return None if ms is None else round(min(ms, MAX_MS), 2)
