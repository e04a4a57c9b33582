"""The daemon: messages in, steps, messages out.

Three loops share one protocol machine, all on the event loop: messages go in as they come, the step loop hands
work to the verifier's thread and takes results back, and the timer ends leases. What the machine wants sent goes
through one bounded queue. A loop that dies takes the worker down, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq import codec, topics
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.effects import Free, Reply
from flexspec_mq.protocol.worker import WorkerConfig, WorkerMachine
from flexspec_mq.transport.base import Inbound, LinkSettings, LinkUpEvent, Outbound, Subscription, Will
from flexspec_mq.transport.outbox import Outbox
from schemas.messages import PROTOCOL_VERSION, Close, Draft, Error, ErrorCode, Open, Poll
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from cloud_worker.settings import WorkerSettings
    from cloud_worker.verifier import StepResult, Verifier
    from flexspec_mq.protocol.effects import SessionKey, WorkerEffect
    from flexspec_mq.transport.base import Link, LinkFactory

_log = logging.getLogger(__name__)

_TICK = 0.02
"""Seconds between looks at the machine's timers."""


class CloudWorker:
    """One worker of one target version.

    Args:
        settings: of the worker.
        verifier: decides tokens; used on one thread of its own.
    """

    def __init__(self, settings: WorkerSettings, verifier: Verifier) -> None:
        facts = verifier.facts
        self._settings = settings
        self._verifier = verifier
        self._machine = WorkerMachine(
            WorkerConfig(
                worker=settings.worker,
                version=settings.version,
                fingerprint=facts.fingerprint,
                max_context=facts.max_context,
                vocab_size=facts.vocab_size,
                capacity=settings.capacity,
                lease=settings.lease,
            )
        )
        self._epoch = time.time_ns() // 1_000_000
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()
        """Set when the link is up for the first time."""
        self._freed: list[SessionKey] = []
        self._outbox = Outbox()
        self.malformed = 0
        """Payloads that could not be decoded."""

    @property
    def machine(self) -> WorkerMachine:
        """The protocol machine; read its counters."""
        return self._machine

    def stop(self) -> None:
        """Drain: take no new sessions, let those that are here end, then return from `run`."""
        self._stopping.set()

    def link_settings(self, base: LinkSettings) -> LinkSettings:
        """`base` with this worker's will, birth and subscriptions.

        Drafts are subscribed before the share, so that an answered open can always be followed by a draft.
        """
        gone = codec.encode_status(self._status("gone"))
        return replace(
            base,
            session_expiry=0,
            will=Will(topics.worker_status_topic(self._settings.worker), gone),
            birth=self._birth,
            subscriptions=(
                Subscription(topics.draft_filter(self._settings.worker)),
                Subscription(topics.open_share(self._settings.version)),
            ),
        )

    async def run(self, connect: LinkFactory, base: LinkSettings) -> None:
        """Serve until `stop`, then drain and leave.

        Args:
            connect: makes the link.
            base: where and as whom to connect.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
        """
        async with connect(self.link_settings(base)) as link:
            with ThreadPoolExecutor(1, "verifier") as thread:
                loops = [
                    asyncio.create_task(self._receive_loop(link), name="receive"),
                    asyncio.create_task(self._step_loop(thread), name="step"),
                    asyncio.create_task(self._timer_loop(link), name="timer"),
                    asyncio.create_task(self._outbox.run(link), name="publish"),
                ]
                try:
                    await self._until_stopped(loops)
                    await self._drain(link, loops)
                finally:
                    for loop in loops:
                        loop.cancel()
                    await asyncio.gather(*loops, return_exceptions=True)

    async def _until_stopped(self, loops: list[asyncio.Task[None]]) -> None:
        """Wait for `stop`; a loop that ends before is an error."""
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            done, _ = await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        for task in done & set(loops):
            task.result()

    async def _drain(self, link: Link, loops: list[asyncio.Task[None]]) -> None:
        """Leave the share first, then give the sessions that are here time to end."""
        _log.info("draining: %d sessions, up to %.0f s", len(self._machine), self._settings.drain)
        if link.is_up:
            await link.unsubscribe(topics.open_share(self._settings.version))
        self._do(self._machine.drain(time.monotonic()))
        await self._publish_status(link)
        ends = time.monotonic() + self._settings.drain
        while len(self._machine) and time.monotonic() < ends:
            done, _ = await asyncio.wait(loops, timeout=0.05)
            for task in done:
                task.result()
        await self._outbox.flush(timeout=1.0)
        _log.info("drained: %d sessions left to other workers", len(self._machine))

    async def _receive_loop(self, link: Link) -> None:
        async for event in link.events():
            if isinstance(event, Inbound):
                self._receive(event)
            else:
                _log.info("%s", event)
                if isinstance(event, LinkUpEvent):
                    self.ready.set()

    def _receive(self, inbound: Inbound) -> None:
        edge = topics.edge_of(inbound.topic)
        if edge is None:
            self.malformed += 1
            return
        try:
            message = codec.decode(inbound.payload)
        except RemoteProtocolError as error:
            self.malformed += 1
            _log.warning("edge %s sent what cannot be read: %s", edge, error.message)
            refusal = Error(0, 0, ErrorCode.MALFORMED, 0, self._settings.worker, error.message[:300])
            self._do([Reply(edge, refusal, 0)])
            return
        if isinstance(message, Open | Draft | Poll | Close):
            self._do(self._machine.receive(edge, message, time.monotonic(), inbound.qos))
        else:
            self.malformed += 1
            _log.warning("edge %s sent a %s, which only workers send", edge, type(message).__name__)

    def _do(self, effects: Iterable[WorkerEffect]) -> None:
        """Carry out what the machine wants. A roll-back needs nothing: the engine compares prefixes itself."""
        for effect in effects:
            if isinstance(effect, Reply):
                topic = topics.verdict_topic(effect.edge)
                self._outbox.put(Outbound(topic, codec.encode(effect.message), effect.qos))
            elif isinstance(effect, Free):
                self._freed.append(effect.key)
        if self._freed or self._machine.has_work():
            self._work.set()

    async def _step_loop(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._verifier.idle():
                await self._work.wait()
            self._work.clear()
            freed, self._freed = self._freed, []
            for key in freed:
                self._verifier.free(key)
            items = self._machine.take_work(time.monotonic(), self._settings.batch)
            for item in items:
                self._verifier.add(item)
            if self._verifier.idle():
                continue
            began = time.monotonic()
            result = await loop.run_in_executor(thread, self._verifier.step)
            self._take(result, began)

    def _take(self, result: StepResult, began: float) -> None:
        now = time.monotonic()
        for item, tokens in result.decided:
            queue = max(0, int(1000 * (began - item.waiting_since)))
            self._do(self._machine.result(item, tokens, queue, result.compute_ms, now))

    async def _timer_loop(self, link: Link) -> None:
        status_due = 0.0
        while True:
            now = time.monotonic()
            due = self._machine.next_tick()
            if due is not None and due <= now:
                self._do(self._machine.tick(now))
            if now >= status_due and link.is_up:
                status_due = now + self._settings.status_every
                await self._publish_status(link)
            await asyncio.sleep(_TICK)

    async def _publish_status(self, link: Link) -> None:
        if link.is_up:
            for message in self._birth():
                self._outbox.put(message)

    def _birth(self) -> Sequence[Outbound]:
        state: Literal["online", "draining"] = "draining" if self._machine.draining else "online"
        topic = topics.worker_status_topic(self._settings.worker)
        return [Outbound(topic, codec.encode_status(self._status(state)), 1, retain=True)]

    def _status(self, state: Literal["online", "draining", "gone"]) -> WorkerStatus:
        facts = self._verifier.facts
        return WorkerStatus(
            state=state,
            epoch=self._epoch,
            at=time.time(),
            worker=self._settings.worker,
            version=self._settings.version,
            protocol=PROTOCOL_VERSION,
            fingerprint=facts.fingerprint.hex(),
            exactness=facts.exactness,
            flip_rate=facts.flip_rate,
            device=facts.device,
            dtype=facts.dtype,
            load=len(self._machine),
            capacity=self._settings.capacity,
            lease=self._settings.lease,
        )
