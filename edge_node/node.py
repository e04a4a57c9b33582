"""The device daemon: many sessions over one link, one drafter for all of them.

Three loops share the sessions, all on the event loop: verdicts go in as they come, the draft loop asks every
session what to draft next and hands all of it to the drafter's thread, and the timer ticks whatever is due. A
loop that dies takes the node down, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from edge_node.drafter import Wanted
from edge_node.generation import Generation, GenerationRequest
from flexspec_mq import codec, topics
from flexspec_mq.errors import FlexSpecError, LinkDown, PublishRefused, RemoteProtocolError
from flexspec_mq.protocol.edge import EdgeConfig, EdgeSession, SessionRequest, close_unknown
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
from flexspec_mq.transport.outbox import Outbox
from schemas.messages import PROTOCOL_VERSION, Error, Identity, Verdict
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from typing import Literal

    from edge_node.drafter import Drafter
    from edge_node.settings import EdgeSettings
    from flexspec_mq.protocol.edge import DraftRequest
    from flexspec_mq.transport.base import Link, LinkFactory

_log = logging.getLogger(__name__)

_IDLE = 0.5
"""Seconds that the timer loop sleeps when nothing is due; an event wakes it."""


class EdgeNode:
    """One device.

    Args:
        settings: of the device.
        drafter: guesses tokens; None drafts nothing, so that the target is asked for each token.
        fingerprint: of the draft's tokenizer, 16 bytes; the worker compares it with the target's.
        eos: token ids that end a text.
    """

    def __init__(
        self, settings: EdgeSettings, drafter: Drafter | None, fingerprint: bytes, eos: tuple[int, ...]
    ) -> None:
        self._settings = settings
        self._drafter = drafter
        self._fingerprint = fingerprint
        self._eos = eos
        self._epoch = time.time_ns() // 1_000_000
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  jitter and session names
        self._sessions: dict[int, Generation] = {}
        self._used: set[int] = set()
        self._link: Link | None = None
        self._outbox = Outbox(on_lost=self._lost)
        self._draft_work = asyncio.Event()
        self._timer_work = asyncio.Event()
        self._freed: list[int] = []
        self._failure: BaseException | None = None
        self.malformed = 0
        """Payloads that could not be decoded."""

    @property
    def sessions(self) -> int:
        """Texts being written."""
        return len(self._sessions)

    @asynccontextmanager
    async def running(self, connect: LinkFactory, base: LinkSettings) -> AsyncIterator[Self]:
        """Run the node inside the block; leaving cancels the texts that are still being written.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
        """
        async with connect(self._link_settings(base)) as link:
            self._link = link
            with ThreadPoolExecutor(1, "drafter") as thread:
                loops = [
                    asyncio.create_task(self._receive_loop(link), name="receive"),
                    asyncio.create_task(self._draft_loop(thread), name="draft"),
                    asyncio.create_task(self._timer_loop(), name="timer"),
                    asyncio.create_task(self._outbox.run(link), name="publish"),
                ]
                for task in loops:
                    task.add_done_callback(self._loop_done)
                try:
                    await link.wait_up(base.give_up_after)
                    yield self
                finally:
                    for generation in list(self._sessions.values()):
                        self.cancel(generation)
                    await self._outbox.flush(timeout=1.0)
                    for task in loops:
                        task.cancel()
                    await asyncio.gather(*loops, return_exceptions=True)
                    self._link = None

    def generate(self, request: GenerationRequest) -> Generation:
        """Start a text. Iterate over the result; give it to `cancel` when it is not wanted any more."""
        if self._failure is not None:
            raise self._failure
        session = self._new_session()
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
                version=self._settings.version,
                identity=identity,
                prompt=request.prompt,
                finish_at=request.finish_at,
                deadline=None if request.timeout is None else now + request.timeout,
            ),
            request.policy,
            self._rng,
            EdgeConfig(give_up=self._settings.give_up),
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

    def _new_session(self) -> int:
        while (session := self._rng.getrandbits(32)) in self._used:
            pass
        self._used.add(session)
        return session

    def _link_settings(self, base: LinkSettings) -> LinkSettings:
        topic = topics.edge_status_topic(self._settings.edge)
        return replace(
            base,
            session_expiry=self._settings.session_expiry,
            will=Will(topic, codec.encode_status(self._status("gone"))),
            birth=lambda: [Outbound(topic, codec.encode_status(self._status("online")), 1, retain=True)],
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
        self._failure = error
        _log.error("the %s loop failed: %s", task.get_name(), error)
        for generation in list(self._sessions.values()):
            self._end(generation, Finish(FinishReason.FAILED, _as_error(error)))

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
        try:
            message = codec.decode(inbound.payload)
        except RemoteProtocolError as error:
            self.malformed += 1
            _log.warning("a worker sent what cannot be read: %s", error.message)
            return
        if not isinstance(message, Verdict | Error):
            self.malformed += 1
            _log.warning("a worker sent a %s, which only edges send", type(message).__name__)
            return
        generation = self._sessions.get(message.session)
        if generation is None:
            if isinstance(message, Verdict):
                self._send(None, close_unknown(message))
            return
        generation.traffic.down += len(inbound.payload)
        generation.traffic.received += 1
        self._do(generation, generation.machine.receive(message, now))

    def _do(self, generation: Generation, effects: Iterable[Effect]) -> None:
        self._send(generation, effects)
        self._draft_work.set()
        self._timer_work.set()

    def _send(self, generation: Generation | None, effects: Iterable[Effect]) -> None:
        """Carry out what a machine wants, in order."""
        for effect in effects:
            if isinstance(effect, Send):
                payload = codec.encode(effect.message)
                if generation is not None:
                    generation.traffic.up += len(payload)
                    generation.traffic.sent += 1
                self._outbox.put(
                    Outbound(self._topic(effect.to_worker), payload, effect.qos, expiry=effect.expiry)
                )
            elif generation is None:
                continue
            elif isinstance(effect, Finish):
                self._end(generation, effect)
            elif isinstance(effect, Commit):
                generation.put(effect)

    def _end(self, generation: Generation, finish: Finish) -> None:
        if self._sessions.pop(generation.session, None) is not None:
            self._freed.append(generation.session)
            generation.put(finish)

    def _topic(self, worker: str | None) -> str:
        if worker is None:
            return topics.open_topic(self._settings.version, self._settings.edge)
        return topics.draft_topic(worker, self._settings.edge)

    def _lost(self, message: Outbound, error: LinkDown | PublishRefused) -> None:
        """A publish failed. The protocol covers it, except that it wants to know when nobody listens."""
        no_worker = isinstance(error, PublishRefused) and error.reason_code == NO_SUBSCRIBERS
        if no_worker and message.topic == self._topic(None):
            now = time.monotonic()
            for generation in list(self._sessions.values()):
                self._do(generation, generation.machine.no_worker(now))
        else:
            _log.info("lost a message on %s: %s", message.topic, error.message)

    async def _draft_loop(self, thread: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wanted = self._wanted()
            freed, self._freed = self._freed, []
            if not wanted and not freed:
                self._draft_work.clear()
                await self._draft_work.wait()
                continue
            tokens = await loop.run_in_executor(thread, self._draft, freed, [one for _, _, one in wanted])
            now = time.monotonic()
            for (generation, request, _), token in zip(wanted, tokens, strict=True):
                if token is not None and generation.session in self._sessions:
                    machine = generation.machine
                    self._do(generation, machine.drafted(request.start, request.digest, token, now))

    def _draft(self, freed: Sequence[int], wanted: Sequence[Wanted]) -> list[int | None]:
        """On the drafter's thread."""
        if self._drafter is None:
            return []
        for session in freed:
            self._drafter.free(session)
        return self._drafter.draft(wanted) if wanted else []

    def _wanted(self) -> list[tuple[Generation, DraftRequest, Wanted]]:
        """What every session wants drafted. One that cannot be drafted further sends what it has."""
        found: list[tuple[Generation, DraftRequest, Wanted]] = []
        now = time.monotonic()
        for generation in list(self._sessions.values()):
            request = generation.machine.draft_request()
            if request is None:
                continue
            if self._drafter is None or not self._drafter.fits(request.context):
                effects = generation.machine.draft_stopped(request.start, request.digest, now)
                self._send(generation, effects)
                continue
            one = Wanted(generation.session, request.context, generation.request.sampling)
            found.append((generation, request, one))
        return found

    async def _timer_loop(self) -> None:
        while True:
            self._timer_work.clear()
            now = time.monotonic()
            for generation in list(self._sessions.values()):
                due = generation.machine.next_tick()
                if due is not None and due <= now:
                    self._do(generation, generation.machine.tick(now))
            dues = [g.machine.next_tick() for g in self._sessions.values()]
            pause = min((due - time.monotonic() for due in dues if due is not None), default=_IDLE)
            if pause > 0:
                try:
                    await asyncio.wait_for(self._timer_work.wait(), min(pause, _IDLE))
                except TimeoutError:
                    continue
            else:
                await asyncio.sleep(0)


def _as_error(error: BaseException) -> FlexSpecError:
    """What a user is told when the node itself failed."""
    if isinstance(error, FlexSpecError):
        return error
    return FlexSpecError(f"the edge node failed: {error!r}", hint="this is a bug; its log has the traceback")
