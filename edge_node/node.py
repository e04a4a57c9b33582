"""The device daemon: many sessions over one link, one drafter for all of them.

Three loops share the sessions, all on the event loop: verdicts go in as they come, the draft loop asks every
session what to draft next and hands all of it to the drafter's thread, and the timer ticks whatever is due. Two
more publish, and watch the workers that hold our sessions. A loop that dies takes the node down, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Self

from edge_node.drafting.interface import Wanted
from edge_node.drafting.thread import DrafterThread
from edge_node.fleet.liveness import WorkerLiveness
from edge_node.generation import Generation, GenerationRequest
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LocalProtocolError,
    PublishRefused,
    RemoteProtocolError,
    UsageError,
)
from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.session import EdgeConfig, EdgeSession, SessionRequest, close_unknown
from flexspec_mq.protocol.effects import Commit, Effect, Finish, FinishReason, Send
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    Inbound,
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
    Subscription,
    Will,
)
from flexspec_mq.transport.publish_queue import PublishQueue
from schemas.messages import PROTOCOL_VERSION, Close, Error, Identity, Verdict
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from typing import Literal

    from edge_node.drafting.interface import Drafter, DraftToken
    from edge_node.settings import EdgeSettings
    from flexspec_mq.protocol.edge.session import DraftRequest
    from flexspec_mq.transport.base import Link, LinkFactory

_log = logging.getLogger(__name__)

_SESSIONS = 2**32 - 1
"""Numbers that a session can have: 1 and up, as the worker's errors about no session at all name 0."""
_FAREWELL = 1.0
"""Seconds for the last messages to go out when the node stops."""
_TELL_EVERY = 10.0
"""Seconds from one warning of messages that cannot be read to the next."""
_FINAL_REFUSALS = (0x87, 0x90, 0x95)
"""Reason codes that will be the same next time: access rules, topic, size."""


class EdgeNode:
    """One device.

    Args:
        settings: of the device.
        drafter: guesses tokens; None drafts nothing, so that the target is asked for each token.
        fingerprint: of the draft's tokenizer, 16 bytes; the worker compares it with the target's.
        eos: token ids that end a text.
        reuse: open at the worker that knows the beginning of a prompt, naming it instead of sending it.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        drafter: Drafter | None,
        fingerprint: bytes,
        eos: tuple[int, ...],
        *,
        reuse: bool = True,
    ) -> None:
        self._settings = settings
        self._codec = Codec()
        self._drafting = DrafterThread(drafter)
        self._presence = WorkerLiveness()
        self._recent = PrefixIndex(most=16 if reuse else 0)
        self._fingerprint = fingerprint
        self._eos = eos
        self._epoch = time.time_ns() // 1_000_000
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  jitter and session names
        self._sessions: dict[int, Generation] = {}
        self._numbers = count(self._rng.randrange(_SESSIONS))
        self._link: Link | None = None
        self._outbox = PublishQueue(on_lost=self._lost)
        self._draft_work = asyncio.Event()
        self._timer_work = asyncio.Event()
        self._freed: list[int] = []
        self._failure: FlexSpecError | None = None
        self.malformed = 0
        """Messages that could not be read."""
        self._quiet_until = 0.0

    @property
    def version(self) -> str:
        """Target version of texts that name none."""
        return self._settings.version

    @property
    def sessions(self) -> int:
        """Texts being written."""
        return len(self._sessions)

    @property
    def failure(self) -> FlexSpecError | None:
        """What broke the node for good; None while it works."""
        return self._failure

    @property
    def presence(self) -> WorkerLiveness:
        """Which workers hold sessions of ours; to read."""
        return self._presence

    @asynccontextmanager
    async def running(self, connect: LinkFactory, base: LinkSettings) -> AsyncIterator[Self]:
        """Run the node inside the block; leaving cancels the texts that are still being written.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
        """
        async with connect(self._link_settings(base)) as link:
            self._link = link
            loops = [
                asyncio.create_task(self._receive_loop(link), name="receive"),
                asyncio.create_task(self._draft_loop(), name="draft"),
                asyncio.create_task(self._timer_loop(), name="timer"),
                asyncio.create_task(self._outbox.run(link), name="publish"),
                asyncio.create_task(self._presence.run(link), name="presence"),
            ]
            for task in loops:
                task.add_done_callback(self._loop_done)
            try:
                await link.wait_up()
                yield self
            finally:
                for generation in list(self._sessions.values()):
                    self.cancel(generation)
                if not await self._outbox.flush(_FAREWELL):
                    _log.info("left with %d messages unpublished", len(self._outbox))
                for task in loops:
                    task.cancel()
                await asyncio.gather(*loops, return_exceptions=True)
                self._drafting.close()
                self._link = None

    def generate(self, request: GenerationRequest) -> Generation:
        """Start a text. Iterate over the result; give it to `cancel` when it is not wanted any more.

        Raises:
            FlexSpecError: the node is broken: one of its loops died of this.
        """
        if self._failure is not None:
            raise self._failure
        # One after the other from a random start: no number comes again while any worker may remember it.
        session = 1 + next(self._numbers) % _SESSIONS
        sampling = request.sampling
        identity = Identity(
            PROTOCOL_VERSION,
            self._fingerprint,
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.seed,
            self._eos,
            request.ignore_eos,
            request.limit,
        )
        now = time.monotonic()
        machine = EdgeSession(
            SessionRequest(
                session=session,
                version=request.version or self._settings.version,
                identity=identity,
                prompt=request.prompt,
                finish_at=request.finish_at,
                deadline=None if request.timeout is None else now + request.timeout,
                reuse=self._recent.offer(request.version or self._settings.version, request.prompt, now),
            ),
            request.policy,
            self._rng,
            EdgeConfig(give_up=self._settings.give_up, queue_timeout=self._settings.queue_patience),
        )
        generation = self._sessions[session] = Generation(session, request, machine)
        if self._link is None or not self._link.is_up:
            self._do(generation, machine.link_down(now))
        self._do(generation, machine.start(now))
        return generation

    def cancel(self, generation: Generation) -> None:
        """The user does not want this text any more; its worker is told."""
        if generation.session in self._sessions:
            self._do(generation, generation.machine.cancel(time.monotonic()))

    def _link_settings(self, base: LinkSettings) -> LinkSettings:
        """`base` with this edge's will, birth and subscription.

        The will of an edge whose name nobody chose clears its status, lest the broker keep one for each run.
        """
        topic = topics.edge_status_topic(self._settings.edge)
        gone = b"" if self._settings.ephemeral else self._codec.encode_status(self._status("gone"))
        return replace(
            base,
            session_expiry=self._settings.session_expiry,
            will=Will(topic, gone),
            birth=lambda: [
                Outbound(topic, self._codec.encode_status(self._status("online")), 1, retain=True)
            ],
            subscriptions=(Subscription(topics.verdict_topic(self._settings.edge)),),
        )

    def _status(self, state: Literal["online", "gone"]) -> EdgeStatus:
        return EdgeStatus(
            state=state,
            epoch=self._epoch,
            at=time.time(),
            edge=self._settings.edge,
            draft=self._settings.draft,
            sessions=len(self._sessions),
        )

    def _loop_done(self, task: asyncio.Task[None]) -> None:
        """A loop died: every text that is being written fails with what killed it."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._failure is not None:  # what killed the first loop kills the others
            return
        self._failure = _as_error(error)
        _log.error("the %s loop failed", task.get_name(), exc_info=error)
        for generation in list(self._sessions.values()):
            self._end(generation, Finish(FinishReason.FAILED, self._failure))

    async def _receive_loop(self, link: Link) -> None:
        async for event in link.events():
            now = time.monotonic()
            if isinstance(event, Inbound):
                self._receive(event, now)
                continue
            _log.info("%s", event)
            for generation in list(self._sessions.values()):
                if isinstance(event, LinkUpEvent):
                    self._do(generation, generation.machine.link_up(now))
                elif isinstance(event, LinkDownEvent):
                    self._do(generation, generation.machine.link_down(now))

    def _receive(self, inbound: Inbound, now: float) -> None:
        worker = topics.worker_of_status(inbound.topic)
        if worker is not None:
            self._receive_status(worker, inbound.payload, now)
            return
        try:
            message = self._codec.decode(inbound.payload)
        except RemoteProtocolError as error:
            self._malformed(f"a worker sent what cannot be read: {error.message}")
            return
        if not isinstance(message, Verdict | Error):
            self._malformed(f"a worker sent a {type(message).__name__}, which only edges send")
            return
        generation = self._sessions.get(message.session)
        if generation is not None:
            generation.traffic.down += len(inbound.payload)
            generation.traffic.received += 1
            self._do(generation, generation.machine.receive(message, now))
        elif isinstance(message, Verdict):
            self._send(None, close_unknown(message))
        elif not message.session:
            _log.warning("worker %s could not read a message of ours: %s", message.worker, message.detail)

    def _receive_status(self, worker: str, payload: bytes, now: float) -> None:
        if not payload:  # somebody cleared it
            return
        try:
            status = self._codec.decode_status(payload, WorkerStatus)
        except RemoteProtocolError as error:
            self._malformed(f"the status of worker {worker} cannot be read: {error.message}")
            return
        if status.worker != worker:
            self._malformed(f"the status of worker {worker} is that of {status.worker}")
            return
        if status.state == "gone":
            self._recent.forget(worker)
        if self._presence.ended(status):
            for session in self._presence.sessions_of(worker):
                generation = self._sessions[session]
                _log.info("session %d: worker %s is %s; asking it", session, worker, status.state)
                self._do(generation, generation.machine.worker_gone(worker, now))

    def _malformed(self, what: str) -> None:
        """Count what cannot be read, and tell of it, though not every time."""
        self.malformed += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _TELL_EVERY
            _log.warning("%s (%d so far)", what, self.malformed)

    def _do(self, generation: Generation, effects: Iterable[Effect]) -> None:
        self._send(generation, effects)
        self._draft_work.set()

    def _send(self, generation: Generation | None, effects: Iterable[Effect]) -> None:
        """Carry out what a machine wants, in order."""
        for effect in effects:
            if isinstance(effect, Send):
                self._publish(generation, effect)
            elif generation is None:
                continue
            elif isinstance(effect, Finish):
                self._end(generation, effect)
            elif isinstance(effect, Commit):
                generation.put(effect)
        if generation is not None and generation.session in self._sessions:
            self._presence.holds(generation.session, generation.machine.worker)
        self._timer_work.set()

    def _publish(self, generation: Generation | None, send: Send) -> None:
        try:
            payload = self._codec.encode(send.message)
        except (UsageError, LocalProtocolError) as error:
            # Prompt and text have outgrown what a message can hold, or the request has a value that none can hold.
            if generation is None:
                raise
            self._give_up(generation, error)
            return
        if generation is not None:
            generation.traffic.up += len(payload)
            generation.traffic.sent += 1
        topic = self._topic(send.to_worker, generation)
        self._outbox.put(Outbound(topic, payload, send.qos, expiry=send.expiry))

    def _give_up(self, generation: Generation, error: FlexSpecError) -> None:
        """One text cannot go on; its workers are told, and no other text is touched."""
        self._end(generation, Finish(FinishReason.FAILED, error))
        self._send(generation, generation.machine.cancel(time.monotonic()))

    def _end(self, generation: Generation, finish: Finish) -> None:
        if self._sessions.pop(generation.session, None) is None:
            return
        self._presence.holds(generation.session, None)
        if generation.machine.written is not None:
            version = generation.request.version or self._settings.version
            self._recent.remember(version, generation.machine.written, time.monotonic())
        self._freed.append(generation.session)
        self._draft_work.set()
        _log.info("session %d: %s", generation.session, finish.reason)
        generation.put(finish)

    def _topic(self, worker: str | None, generation: Generation | None) -> str:
        if worker is None:
            asked = None if generation is None else generation.request.version
            return topics.open_topic(asked or self._settings.version, self._settings.edge)
        return topics.draft_topic(worker, self._settings.edge)

    def _lost(self, message: Outbound, error: LinkDown | PublishRefused) -> None:
        """A publish failed. The protocol covers it, except that it wants to know when nobody listens."""
        no_worker = isinstance(error, PublishRefused) and error.reason_code == NO_SUBSCRIBERS
        now = time.monotonic()
        opening = [one for one in self._sessions.values() if message.topic == self._topic(None, one)]
        if no_worker and opening:
            for generation in opening:
                self._do(generation, generation.machine.no_worker(now))
        elif no_worker:
            for generation in list(self._sessions.values()):
                reuse = generation.machine.reuse
                if reuse is not None and message.topic == self._topic(reuse.worker, generation):
                    self._recent.forget(reuse.worker)
                    self._do(generation, generation.machine.prefix_lost(now))
        elif isinstance(error, PublishRefused) and error.reason_code in _FINAL_REFUSALS:
            self._refused(message, error)
        else:
            _log.info("lost a message on %s: %s", message.topic, error.message)

    def _refused(self, message: Outbound, error: PublishRefused) -> None:
        """The broker will never take this message: its text ends with what the broker said."""
        sent = self._codec.decode(message.payload)
        generation = self._sessions.get(sent.session)
        if generation is not None and not isinstance(sent, Close):
            self._give_up(generation, error)

    async def _draft_loop(self) -> None:
        while True:
            wanted = self._wanted()
            freed, self._freed = self._freed, []
            if not wanted and not (freed and self._drafting.works):
                self._draft_work.clear()
                await self._draft_work.wait()
                continue
            drafted = await self._drafting.round(freed, [one for _, _, one in wanted])
            for (generation, request, _), guesses in zip(wanted, drafted, strict=True):
                if guesses is not None:
                    self._drafted(generation, request, guesses)

    def _drafted(self, generation: Generation, request: DraftRequest, guesses: Sequence[DraftToken]) -> None:
        """Hand guesses to the session, as long as each follows the one before and is wanted."""
        now = time.monotonic()
        machine = generation.machine
        if not guesses and generation.session in self._sessions:
            self._do(generation, machine.draft_stopped(request.start, request.digest, now))
        following: DraftRequest | None = request
        for guess in guesses:
            if following is None or generation.session not in self._sessions:
                return
            self._do(generation, machine.drafted(following.start, following.digest, guess, now))
            start, following = following.start, machine.draft_request()
            if following is not None and (following.start, following.context[-1]) != (start + 1, guess.token):
                return  # the text has changed meanwhile

    def _wanted(self) -> list[tuple[Generation, DraftRequest, Wanted]]:
        """What every session wants drafted. One that cannot be drafted further sends what it has."""
        found: list[tuple[Generation, DraftRequest, Wanted]] = []
        now = time.monotonic()
        for generation in list(self._sessions.values()):
            request = generation.machine.draft_request()
            if request is None:
                continue
            if not self._drafting.fits(request.context):
                effects = generation.machine.draft_stopped(request.start, request.digest, now)
                self._send(generation, effects)
                continue
            found.append((generation, request, _wanted(generation, request)))
        return found

    async def _timer_loop(self) -> None:
        while True:
            self._timer_work.clear()
            now = time.monotonic()
            for generation in list(self._sessions.values()):
                due = generation.machine.next_tick()
                if due is not None and due <= now:
                    self._do(generation, generation.machine.tick(now))
            dues = [generation.machine.next_tick() for generation in self._sessions.values()]
            wait = min((due - now for due in dues if due is not None), default=None)
            try:
                async with asyncio.timeout(wait):
                    await self._timer_work.wait()
            except TimeoutError:
                continue


def _wanted(generation: Generation, request: DraftRequest) -> Wanted:
    return Wanted(
        session=generation.session,
        context=request.context,
        params=generation.request.sampling,
        committed=request.committed,
        prompt=len(generation.request.prompt),
        most=request.most,
        survival=request.survival,
        stop=request.stop,
        price=request.price,
    )


def _as_error(error: BaseException) -> FlexSpecError:
    """What a user is told when the node itself failed."""
    if isinstance(error, FlexSpecError):
        return error
    return FlexSpecError(f"the edge node failed: {error!r}", hint="this is a bug; its log has the traceback")
