"""The device daemon: many sessions over one link, one drafter for all of them.

Three loops share the sessions, all on the event loop: verdicts go in as they come, the draft loop hands what
sessions want drafted to the drafter's thread, and the timer ticks whatever is due. Two more publish, and keep the
subscriptions to workers' statuses. A loop that dies takes the node down, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Self

from edge_node.drafting.thread import DrafterThread
from edge_node.fleet.directory import WorkerDirectory, versions_of
from edge_node.fleet.models import Models
from edge_node.fleet.tally import TargetVersion, VersionTally, Wrote
from edge_node.generation import Generation, GenerationRequest
from edge_node.wire import KeyedWire, check_speaker, keyed_wire
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.controller.controller import Controller, Told
from flexspec_mq.controller.estimators.link import BIG
from flexspec_mq.controller.session import DeviceReading
from flexspec_mq.daemon.tasks import any_of, running
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkRefused,
    LocalProtocolError,
    PublishRefused,
    RemoteProtocolError,
    UsageError,
    WorkerError,
)
from flexspec_mq.keys.refusals import KeysRefused, Reason
from flexspec_mq.models.fingerprint import difference
from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.session import EdgeSession, close_unknown
from flexspec_mq.protocol.edge.types import SessionConfig, SessionRequest
from flexspec_mq.protocol.effects import Effect, Finish, FinishReason, Send
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
from flexspec_mq.transport.needs import FOR_SESSIONS
from flexspec_mq.transport.publish_queue import PublishQueue
from schemas.messages import (
    MAX_VERDICT_TOKENS,
    NO_SESSION,
    PROTOCOL_VERSION,
    Close,
    Error,
    ErrorCode,
    Identity,
    Open,
    Verdict,
)
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from typing import Literal

    from edge_node.energy import EnergyMeter, TextEnergy
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.limits import BatteryGauge
    from edge_node.settings import EdgeSettings
    from flexspec_mq.controller.explain import Planned
    from flexspec_mq.drafting.interface import Drafter, DraftRequest, DraftToken
    from flexspec_mq.keys.edge import FromWorker
    from flexspec_mq.keys.trust import Trust
    from flexspec_mq.transport.base import Link, LinkFactory
    from schemas.status import TokenizerStatus, WorkerStatus

_log = logging.getLogger(__name__)

_SESSIONS = 2**32 - 1
"""Numbers that a session can have: 1 and up, as the worker's errors about no session at all name 0."""
_FAREWELL = 1.0
"""Seconds for the last messages to go out when the node stops."""
_TELL_EVERY = 10.0
"""Seconds from one warning of messages that cannot be read to the next."""
_STATUS_EVERY = 2.0
"""Seconds from one status to the next at least, on a node that follows a family and has news."""
_TOLD = 64
"""Differences of tokenizers that are remembered as told; the oldest is forgotten first."""
_COMPLETE = (FinishReason.EOS, FinishReason.STOP, FinishReason.LENGTH)
_FINAL_REFUSALS = (0x87, 0x90, 0x95)
"""Reason codes that will be the same next time: access rules, topic, size."""


class EdgeNode:
    """One device.

    Args:
        settings: of the device.
        drafter: proposes tokens; None drafts nothing, so that the target is asked for each token.
        fingerprint: of the draft's tokenizer, 16 bytes; the worker compares it with the target's.
        eos: token ids that end a text.
        reuse: open at the worker that knows the beginning of a prompt, naming it instead of sending it.
        family: catalogue of the family that it follows, if it follows one.
        energy: tells what each text takes out of the device, if that is wanted.
        battery: tells its charge to policies, if they want to know.
        tokenizer: of the draft, in short: tells workers what must agree where the fingerprints differ.

    Attributes:
        directory: which workers are online, and which hold sessions of ours; to read.
        models: what can be asked for.
        tally: what was seen of each version; to read.
        malformed: messages that could not be read, or made no sense.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        drafter: Drafter | None,
        fingerprint: bytes,
        eos: tuple[int, ...],
        *,
        reuse: bool = True,
        family: FamilyCatalogue | None = None,
        energy: EnergyMeter | None = None,
        battery: BatteryGauge | None = None,
        tokenizer: TokenizerStatus | None = None,
    ) -> None:
        self._settings = settings
        self._codec = Codec(MAX_VERDICT_TOKENS)
        self._keyed = keyed_wire(settings)
        self._drafting = DrafterThread(drafter)
        self._controller = Controller()
        self._prefixes = PrefixIndex(most=16 if reuse else 0)
        self._fingerprint = fingerprint
        self._vocabulary = b"" if tokenizer is None else bytes.fromhex(tokenizer.vocabulary)
        self._eos = eos
        self._epoch = time.time_ns() // 1_000_000
        self._life = secrets.randbits(32)
        self._rng = random.Random(secrets.randbits(64))  # noqa: S311  jitter and session names
        self._sessions: dict[int, Generation] = {}
        self._numbers = count(self._rng.randrange(_SESSIONS))
        self._link: Link | None = None
        self._waiting = 0  # texts, for the link
        self._down_since = time.monotonic()
        self._linked = asyncio.Event()  # as far as the receive loop, and with it every session, knows
        self._queue = PublishQueue(on_published=self._controller.acknowledged)
        self._verdicts = topics.verdict_topic(settings.edge)
        self._to_draft: dict[int, Generation] = {}
        self._draft_work = asyncio.Event()
        self._freed: list[int] = []
        self._tick_at = inf
        self._tick: asyncio.TimerHandle | None = None
        self._timer_work = asyncio.Event()
        self._broken = asyncio.Event()
        self._failure: FlexSpecError | None = None
        self._quiet_until = 0.0
        self._surprises = 0  # of texts that are over
        self._family = family
        self._energy = energy
        self._battery = battery
        self._tallied = asyncio.Event()
        self._told = deque[str](maxlen=_TOLD)
        self.directory = WorkerDirectory(
            allowed=None if self._keyed is None else self._keyed.allowed,
            compare=partial(difference, fingerprint, tokenizer),
        )
        self.models = Models(self.directory, settings.version, family)
        self.tally = VersionTally()
        self.malformed = 0

    @property
    def sessions(self) -> int:
        """Texts being written."""
        return len(self._sessions)

    @property
    def surprises(self) -> int:
        """Events that the protocol's table had no row for."""
        return self._surprises + sum(one.machine.surprises.total() for one in self._sessions.values())

    @property
    def plans(self) -> dict[str, Planned]:
        """The newest plan of each version of which a text was begun."""
        return self._controller.plans()

    @property
    def active_versions(self) -> set[str]:
        """Versions of which a text is being written."""
        return {generation.machine.version for generation in self._sessions.values()}

    @property
    def name(self) -> str:
        """On topics."""
        return self._settings.edge

    @property
    def version(self) -> str:
        """Target version of a text that asks for none."""
        return self._settings.version

    @property
    def refused(self) -> Mapping[Reason, int]:
        """Messages that were not believed, by reason."""
        return {} if self._keyed is None else self._keyed.refusals.counts

    @property
    def failure(self) -> FlexSpecError | None:
        """What broke the node for good; None while it works."""
        return self._failure

    @property
    def link_up(self) -> bool:
        """Whether there is a link, and it is up."""
        return self._link is not None and self._link.is_up and self._linked.is_set()

    @property
    def down_for(self) -> float:
        """Seconds for which there has been no link; 0 while there is one."""
        return 0.0 if self.link_up else time.monotonic() - self._down_since

    async def wait_up(self, timeout: float) -> bool:
        """Wait for the link up to `timeout` seconds; tell whether it is up.

        Raises:
            LinkError: the link failed for good.
        """
        if self._link is None:
            return False
        self._waiting += 1
        try:
            if not self._link.is_up:
                self._link.reconnect("a text waits for the link")
            async with asyncio.timeout(timeout):
                await self._wait_linked(self._link)
        except (LinkDown, TimeoutError):
            return False
        finally:
            self._waiting -= 1
        return True

    async def _wait_linked(self, link: Link) -> None:
        """Wait until the link is up and the sessions know: one that began before would open twice when it learns."""
        await link.wait_up()
        await self._linked.wait()

    async def wait_broken(self) -> None:
        """Wait until the node is broken.

        Raises:
            FlexSpecError: what broke it.
        """
        await self._broken.wait()
        if self._failure is not None:
            raise self._failure

    @asynccontextmanager
    async def running(
        self, connect: LinkFactory, base: LinkSettings, *, everyone: bool = False
    ) -> AsyncIterator[Self]:
        """Run the node inside the block; leaving cancels the texts that are still being written.

        Args:
            connect: makes the link.
            base: where and as whom to connect.
            everyone: listen to the status of all workers, not only to those that hold sessions.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
        """
        async with connect(self._link_settings(base)) as link:
            self._link = link
            try:
                async with running(self._loops(link, everyone=everyone), "edge node"):
                    try:
                        await self._wait_linked(link)
                        yield self
                    finally:
                        await self._farewell()
            finally:
                self._drafting.close()
                self._link = None

    async def _farewell(self) -> None:
        """Tell the workers of the texts that are still being written."""
        for generation in list(self._sessions.values()):
            self.cancel(generation)
        if not await self._queue.flush(_FAREWELL):
            _log.info("left with %d messages unpublished", len(self._queue))

    def generate(self, request: GenerationRequest) -> Generation:
        """Start a text. Iterate over the result; give it to `cancel` when it is not wanted any more.

        Raises:
            FlexSpecError: the node is broken: one of its loops died of this.
            UsageError: the deployment has no opening key for the version.
        """
        if self._failure is not None:
            raise self._failure
        # One after the other from a random start: no number comes again while any worker may remember it.
        session = 1 + next(self._numbers) % _SESSIONS
        version = request.version or self.version
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
        energy = None if self._energy is None else self._energy.text(now)
        machine = EdgeSession(
            SessionRequest(
                session=session,
                version=version,
                identity=identity,
                prompt=request.prompt,
                finish_at=request.finish_at,
                deadline=None if request.timeout is None else now + request.timeout,
                reuse=self._prefixes.offer(version, request.prompt, now),
                prediction=request.prediction,
                # Some bytes that an open of an ordinary pair, whose fingerprints are equal, goes without.
                vocabulary=b"" if self.directory.all_have(version, self._fingerprint) else self._vocabulary,
            ),
            request.policy,
            self._rng,
            SessionConfig(give_up=self._settings.give_up, queue_timeout=self._settings.queue_patience),
            self._controller,
            partial(self._device_reading, energy) if energy or self._battery else None,
        )
        if self._keyed is not None:
            self._keyed.keys.begin(session, version)
        generation = self._sessions[session] = Generation(session, request, machine, energy)
        if not self.link_up:
            self._do(generation, machine.link_down(now))
        self._do(generation, machine.start(now))
        return generation

    def _device_reading(self, energy: TextEnergy | None) -> DeviceReading:
        """What policies are told of the device, while one text is written."""
        now = time.monotonic()
        return DeviceReading(
            None if energy is None else energy.spent(now).joules,
            None if self._battery is None else self._battery.left(now),
        )

    def cancel(self, generation: Generation) -> None:
        """The user does not want this text any more; its worker is told."""
        if generation.session in self._sessions:
            self._do(generation, generation.machine.cancel(time.monotonic()))

    def ask_who_listens(self, generation: Generation) -> None:
        """Have the broker say whether a worker listens to opens of the version; of opens at QoS 0 it says nothing."""
        self._publish(generation, Send(None, NO_SESSION, 1, None))

    def _link_settings(self, base: LinkSettings) -> LinkSettings:
        """`base` with this edge's will, birth and subscription.

        The will of an edge whose name nobody chose clears its status, lest the broker keep one for each run.
        """
        topic = topics.edge_status_topic(self._settings.edge)
        gone = b"" if self._settings.ephemeral else self._codec.encode_status(self._status("gone"))
        return replace(
            base,
            session_expiry=self._settings.session_expiry,
            awaited=lambda: bool(self._sessions or self._waiting),
            needs=FOR_SESSIONS,
            will=Will(topic, gone),
            birth=lambda: [
                Outbound(topic, self._codec.encode_status(self._status("online")), 1, retain=True)
            ],
            subscriptions=(
                Subscription(self._verdicts),
                *(() if self._keyed is None else (self._keyed.subscription,)),
            ),
        )

    def _status(self, state: Literal["online", "gone"]) -> EdgeStatus:
        return EdgeStatus(
            state=state,
            epoch=self._epoch,
            at=time.time(),
            edge=self._settings.edge,
            draft=self._settings.draft,
            sessions=len(self._sessions),
            catalogue=None if self._family is None else self._family.status(),
            versions=() if self._family is None else self.tally.figures(),
            life=self._life,
        )

    async def _loops(self, link: Link, *, everyone: bool) -> None:
        """All that runs beside the block. A loop that dies ends the others and fails every text."""
        named = {
            "receive": self._receive_loop(link),
            "draft": self._draft_loop(),
            "timer": self._timer_loop(),
            "publish": self._queue.run(link),
            "directory": self.directory.run(link, everyone=everyone),
        }
        if self._family is not None:
            named["family"] = self._family.run(link)
            named["status"] = self._status_loop(self._family)
        try:
            async with asyncio.TaskGroup() as loops:
                for name, loop in named.items():
                    loops.create_task(loop, name=name)
        except ExceptionGroup as died:
            first = died.exceptions[0]
            _log.error("a loop of the node failed", exc_info=first)
            self._failure = _as_error(first)
            for generation in list(self._sessions.values()):
                self._end(generation, Finish(FinishReason.FAILED, self._failure))
            self._broken.set()
            self._linked.set()  # whoever waits for the link learns what broke the node

    async def _status_loop(self, family: FamilyCatalogue) -> None:
        """Tell what is new of the family and its versions. One that is lost is told again by the next birth."""
        topic = topics.edge_status_topic(self._settings.edge)
        while True:
            async with (
                running(family.news(), "family news") as news,
                running(self._tallied.wait(), "tally") as tally,
            ):
                await any_of(news, tally)
            self._tallied.clear()
            self._queue.put(
                Outbound(topic, self._codec.encode_status(self._status("online")), 1, retain=True)
            )
            await asyncio.sleep(_STATUS_EVERY)

    async def _receive_loop(self, link: Link) -> None:
        async for event in link.events():
            now = time.monotonic()
            if isinstance(event, Inbound):
                self._controller.received(len(event.payload), now)
                self._receive(event, now)
                continue
            _log.info("%s", event)
            if isinstance(event, LinkUpEvent):
                self._controller.link_up(now)
                self._linked.set()
            else:
                self._controller.link_down(now)
                self._linked.clear()
                self._down_since = now
            for generation in list(self._sessions.values()):
                if isinstance(event, LinkUpEvent):
                    self._do(generation, generation.machine.link_up(now))
                elif isinstance(event, LinkDownEvent):
                    self._do(generation, generation.machine.link_down(now))

    def _receive(self, inbound: Inbound, now: float) -> None:
        try:
            if inbound.topic == self._verdicts:
                if self._keyed is None:
                    self._receive_message(inbound.payload, len(inbound.payload), now)
                else:
                    self._receive_keyed(self._keyed, inbound.payload, now)
            elif (worker := topics.worker_of_status(inbound.topic)) is not None:
                self._receive_status(worker, inbound.payload, now)
            elif self._keyed is not None and inbound.topic == self._keyed.subscription.filter:
                self._receive_statement(self._keyed.keys.trust, inbound.payload)
            elif self._family is not None:
                self._family.take(inbound.topic, inbound.payload)
        except KeysRefused as error:
            if self._keyed is not None:
                self._keyed.refused(inbound.topic, error, now)
        except RemoteProtocolError as error:
            self.malformed += 1
            if now >= self._quiet_until:
                self._quiet_until = now + _TELL_EVERY
                _log.warning("%s (%d so far)", error.message, self.malformed)

    def _receive_keyed(self, keyed: KeyedWire, payload: bytes, now: float) -> None:
        """A worker asks for a key, or what came was made under one."""
        wanted = keyed.keys.wanted(payload)
        if wanted is None:
            made = keyed.unwrap(payload, now)
            self._receive_message(made.plain, len(payload), now, made)
        elif (again := keyed.poll_for_key(wanted, now)) is not None:
            worker, said = again
            self._queue.put(Outbound(topics.draft_topic(worker, self._settings.edge), said, 0))

    def _receive_message(self, plain: bytes, size: int, now: float, made: FromWorker | None = None) -> None:
        """Take a message of a worker.

        Args:
            plain: as the codec reads it.
            size: of the payload as it came.
            now: seconds.
            made: by whom and for which session, where a key says so.
        """
        try:
            message = self._codec.decode(plain)
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"a worker sent what cannot be read: {error.message}") from error
        if not isinstance(message, Verdict | Error):
            raise RemoteProtocolError(f"a worker sent a {type(message).__name__}, which only edges send")
        generation = self._sessions.get(message.session)
        if made is not None:
            check_speaker(made, message, None if generation is None else generation.machine)
        told = isinstance(message, Verdict) and message.recommended is not None
        if told and generation is not None and self._misled(generation, message):
            generation = None  # its worker is told to close it, as one that is none of ours
        if generation is not None:
            generation.received(size)
            traffic = generation.traffic
            if traffic.opened is not None:
                size, at = traffic.opened
                traffic.opened = None
                self._controller.carried(size, now - at, now)
            self._do(generation, generation.machine.receive(message, now))
        elif isinstance(message, Verdict):
            for send in close_unknown(message):
                topic = topics.draft_topic(str(send.to_worker), self._settings.edge)
                self._queue.put(Outbound(topic, self._payload(send, now), send.qos))
        elif not message.session:
            what = "did not read messages" if message.code is ErrorCode.BUSY else "could not read a message"
            _log.warning("worker %s %s of ours: %s", message.worker, what, message.detail)

    def _misled(self, generation: Generation, message: Verdict | Error) -> bool:
        """Take what a session's worker says of sampling; whether that ended the session, to be begun again."""
        request, version = generation.request, generation.machine.version
        if not isinstance(message, Verdict) or message.recommended is None or message.worker is None:
            return False
        recommended = self.directory.told(version, message.worker, message.recommended)
        if recommended is None or request.recommended is None or generation.machine.committed:
            return False
        if request.recommended(recommended) == request.sampling:
            return False
        _log.info("session %d: worker %s recommends another sampling", generation.session, message.worker)
        generation.misled = True
        self.cancel(generation)
        return True

    def _receive_statement(self, trust: Trust, payload: bytes) -> None:
        if not trust.take(payload):
            return
        _log.info("statement %d of the deployment is in force", trust.statement.serial)
        if trust.revoked:
            raise LinkRefused(
                "this device was revoked: no worker believes it any more",
                hint="ask whoever runs the broker; after `flexspec-broker add-device` or `rotate` its new files lie "
                "in the folder of that broker",
            )

    def _receive_status(self, worker: str, payload: bytes, now: float) -> None:
        status = self.directory.take(worker, payload)
        if status is None:
            return
        self._controller.told(worker, _told(status), now)
        if status.state == "gone":
            self._prefixes.forget(worker)
        self._tell_difference(status)
        liveness = self.directory.liveness
        if liveness.ended(status):
            for session in liveness.sessions_of(worker):
                generation = self._sessions[session]
                _log.info("session %d: worker %s is %s; asking it", session, worker, status.state)
                self._do(generation, generation.machine.worker_gone(worker, now))

    def _tell_difference(self, status: WorkerStatus) -> None:
        """Say once how the tokenizer of a target that may be asked for differs from the draft's."""
        found = self.directory.compare(status)
        words = found.fatal or found.harmless
        wanted = [one.name for one in versions_of(status) if self.models.may_mean(one.name)]
        if not words or not wanted or status.state != "online" or words in self._told:
            return
        self._told.append(words)
        what = f"the tokenizer of {', '.join(wanted)} at worker {status.worker} is not quite the draft's: {words}"
        if found.fatal:
            what = f"{what}; no text of it can be written with this draft"
        _log.warning("%s", what)

    def _do(self, generation: Generation, effects: Iterable[Effect]) -> None:
        """Carry out what a machine wants, in order, and note what it waits for."""
        for effect in effects:
            if isinstance(effect, Send):
                self._publish(generation, effect)
            elif isinstance(effect, Finish):
                self._end(generation, effect)
            else:
                generation.put(effect)
        session, machine = generation.session, generation.machine
        if session not in self._sessions:
            return
        self.directory.liveness.holds(session, machine.worker)
        self._tick_by(machine.next_tick())
        self._to_draft[session] = generation
        self._draft_work.set()

    def _payload(self, send: Send, now: float) -> bytes:
        plain = self._codec.encode(send.message)
        return plain if self._keyed is None else self._keyed.wrap(send, plain, now)

    def _publish(self, generation: Generation, send: Send) -> None:
        try:
            payload = self._payload(send, time.monotonic())
        except KeysRefused as error:
            _log.warning("session %d: not sent: %s", generation.session, error.message)
            return
        except (UsageError, LocalProtocolError) as error:
            # Prompt and text have outgrown what a message can hold, or the request has a value that none can hold.
            self._give_up(generation, error)
            return
        generation.sent(len(payload))
        if len(payload) >= BIG:
            # Only the first message says how long it takes: an answer to it may come after the next.
            traffic = generation.traffic
            traffic.opened = None if traffic.sent > 1 else (len(payload), time.monotonic())
        if send.to_worker is None:
            topic = topics.open_topic(generation.machine.version, self._settings.edge)
        else:
            topic = topics.draft_topic(send.to_worker, self._settings.edge)
        message = Outbound(topic, payload, send.qos, expiry=send.expiry)
        self._queue.put(message, partial(self._lost, generation, send))

    def _give_up(self, generation: Generation, error: FlexSpecError) -> None:
        """One text cannot go on; its workers are told, and no other text is touched."""
        self._end(generation, Finish(FinishReason.FAILED, error))
        self._do(generation, generation.machine.cancel(time.monotonic()))

    def _end(self, generation: Generation, finish: Finish) -> None:
        session, machine = generation.session, generation.machine
        if self._sessions.pop(session, None) is None:
            return
        self.directory.liveness.holds(session, None)
        if self._keyed is not None:
            self._keyed.keys.ended(session, time.monotonic())
        self._surprises += machine.surprises.total()
        if machine.written is not None:
            self._prefixes.remember(machine.version, machine.written, time.monotonic())
        self._to_draft.pop(session, None)
        self._freed.append(session)
        self._draft_work.set()
        _log.info("session %d: %s", session, finish.reason)
        if (
            self._keyed is not None
            and isinstance(finish.error, WorkerError)
            and not machine.counters.verdicts
        ):
            finish = replace(finish, error=self._keyed.explained(finish.error, generation.asked))
        if self._family is not None:
            self._count(generation, finish)
        generation.put(finish)

    def _count(self, generation: Generation, finish: Finish) -> None:
        """What a text that is over has shown of its version.

        That all workers were busy, or the broker out of reach, is no fault of a version.
        """
        machine, seen = generation.machine, generation.machine.observation
        late = finish.reason is FinishReason.DEADLINE
        failed = finish.reason is FinishReason.FAILED and isinstance(
            finish.error, WorkerError | RemoteProtocolError
        )
        wrote = Wrote(
            complete=finish.reason in _COMPLETE,
            failed=(late or failed) and (seen.committed > 0 or not machine.counters.busy),
            drafted=seen.drafted + machine.counters.worker_judged,
            accepted=seen.accepted + machine.counters.worker_accepted,
            tokens=generation.paced,
            seconds=generation.seconds,
        )
        if wrote.shows:
            self.tally.add(TargetVersion(machine.version, generation.request.digest), wrote)
            self._tallied.set()

    def _lost(self, generation: Generation, send: Send, error: LinkDown | PublishRefused) -> None:
        """A publish failed. The protocol covers it, except that it wants to know when nobody listens."""
        alive, machine, now = generation.session in self._sessions, generation.machine, time.monotonic()
        reason = error.reason_code if isinstance(error, PublishRefused) else None
        if reason == NO_SUBSCRIBERS:
            if send.to_worker is not None:
                self._prefixes.forget(send.to_worker)
            if alive and send.to_worker is None:
                self._do(generation, machine.no_worker(now))
            elif alive and isinstance(send.message, Open):
                self._do(generation, machine.prefix_lost(now))
        elif alive and reason in _FINAL_REFUSALS and not isinstance(send.message, Close):
            self._give_up(generation, error)  # the broker will never take this message
        else:
            _log.info("session %d: lost a message: %s", generation.session, error.message)

    async def _draft_loop(self) -> None:
        while True:
            wanted = self._wanted()
            freed, self._freed = self._freed, []
            if not wanted and not (freed and self._drafting.works):
                self._draft_work.clear()
                await self._draft_work.wait()
                continue
            before = self._drafting.busy
            self._controller.drafting = max(1, len(wanted))
            drafted = await self._drafting.round(freed, list(map(itemgetter(1), wanted)))
            took = self._drafting.busy - before
            for (generation, request), tokens in zip(wanted, drafted, strict=True):
                generation.drafted(took / len(wanted))
                if tokens is not None:
                    self._drafted(generation, request, tokens)

    def _wanted(self) -> list[tuple[Generation, DraftRequest]]:
        """What every session wants drafted. One that cannot be drafted further sends what it has."""
        found: list[tuple[Generation, DraftRequest]] = []
        for session, generation in list(self._to_draft.items()):
            request = generation.machine.draft_request()
            if request is None:
                del self._to_draft[session]
            elif self._drafting.fits(request.context):
                found.append((generation, request))
            else:
                self._drafted(generation, request, ())
        return found

    def _drafted(self, generation: Generation, request: DraftRequest, tokens: Sequence[DraftToken]) -> None:
        """Hand tokens to the session, as long as each follows the one before and is wanted; none: it gets no more."""
        now = time.monotonic()
        machine = generation.machine
        if not tokens and generation.session in self._sessions:
            self._do(generation, machine.draft_stopped(request.start, request.digest, now))
        before = 0
        for place, token in enumerate(tokens):
            if generation.session not in self._sessions:
                return
            if place:
                following = machine.draft_request()
                if following is None or machine.counters.drafted == before:
                    return  # enough, or the text has changed meanwhile
                request = following
            before = machine.counters.drafted
            effects = machine.drafted(request.start, request.digest, token, now)
            if effects:
                self._do(generation, effects)

    def _tick_by(self, due: float | None) -> None:
        """Look at the timers when this is due, on the event loop's clock, which is the machines' too."""
        if due is None or due >= self._tick_at:
            return
        self._tick_at = due
        if self._tick is not None:
            self._tick.cancel()
        self._tick = asyncio.get_running_loop().call_at(due, self._timer_work.set)

    async def _timer_loop(self) -> None:
        while True:
            await self._timer_work.wait()
            self._timer_work.clear()
            self._tick_at, now = inf, time.monotonic()
            for generation in list(self._sessions.values()):
                due = generation.machine.next_tick()
                if due is not None and due <= now:
                    self._do(generation, generation.machine.tick(now))
                else:
                    self._tick_by(due)


def _told(status: WorkerStatus) -> Told:
    """Convert the times in a worker's status to seconds; the schema bounds them."""
    told = (status.forward_ms, status.row_ms, status.draft_ms)
    return Told(*(None if ms is None else ms / 1000 for ms in told))


def _as_error(error: BaseException) -> FlexSpecError:
    """What a user is told when the node itself failed."""
    if isinstance(error, FlexSpecError):
        return error
    return FlexSpecError(f"the edge node failed: {error!r}", hint="this is a bug; its log has the traceback")
