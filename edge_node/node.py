"""The device daemon: many sessions over one link, one drafter for all of them.

Three loops share the sessions, all on the event loop: verdicts go in as they come, the draft loop hands what
sessions want drafted to the drafter's thread, and the timer ticks whatever is due. Another publishes. A loop that
dies takes the node down, loudly.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Self

from edge_node.drafting import DraftLoop
from edge_node.energy import EnergyMeter, TextEnergy
from edge_node.fleet.devices import DeviceStatuses
from edge_node.fleet.directory import WorkerDirectory
from edge_node.fleet.models import Models
from edge_node.generation import Generation, GenerationRequest, OtherText
from edge_node.limits import DataSpent
from edge_node.link_state import LinkState, NodeState
from edge_node.requests import HeldRequests
from edge_node.status import StatusPublisher
from edge_node.wire import wire_of
from flexspec_mq import entropy, topics, waiting
from flexspec_mq.controller.estimators.node import NodeEstimates, ProvisionalShare
from flexspec_mq.controller.estimators.worker import StatedTimes
from flexspec_mq.controller.explain import Planned
from flexspec_mq.controller.observation import DeviceReading
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.daemon.tasks import running
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.energy.model import OVERHEAD_DOWN, OVERHEAD_UP
from flexspec_mq.errors import (
    FlexSpecError,
    LinkDown,
    LinkError,
    LocalProtocolError,
    PublishRefused,
    RemoteProtocolError,
    UsageError,
    WorkerError,
)
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.models.fingerprint import Difference
from flexspec_mq.protocol.edge.patience import Patience
from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.session import EdgeSession, close_unknown
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import Effect, Finish, FinishReason, Send
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    Inbound,
    LinkSettings,
    LinkUpEvent,
    Outbound,
    Subscription,
)
from flexspec_mq.transport.link import Link, LinkFactory
from flexspec_mq.transport.needs import FOR_SESSIONS
from flexspec_mq.transport.publish_queue import PublishQueue
from schemas.messages import (
    Close,
    Delivery,
    Error,
    ErrorCode,
    Identity,
    Open,
    Verdict,
)
from schemas.plan import LimitReport
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.fleet.target_texts import TargetTexts
    from edge_node.limits import BatteryGauge, DailyData
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.drafting.memory import AnswerMemory
    from flexspec_mq.telemetry import Telemetry

_log = logging.getLogger(__name__)

_SESSIONS = 2**32 - 1
"""Numbers that a session can have: 1 and up, as the worker's errors about no session at all name 0."""
_UNCLAIMED = 4_000_000
"""Bytes of answers that may be of texts which have not gone on yet; the oldest are dropped first."""
_CLOSES = 256
"""Closes that wait for the link; the oldest are dropped first, and the leases at their workers end."""
_TELL_EVERY = 10.0
"""Seconds from one warning of messages that cannot be read to the next."""
_FINAL_REFUSALS = (0x87, 0x90, 0x95)
"""MQTT reason codes that will be the same next time: access rules, topic, size."""


class EdgeNode:
    """A device.

    Args:
        settings: settings of the device.
        drafter: proposes tokens; None drafts nothing, so that the target is asked for each token.
        fingerprint: fingerprint of the draft's tokenizer, 16 bytes; the worker compares it with the target's.
        eos: token ids that end a text.
        family: catalogue of the family that it follows, if it follows one.
        energy: tells what each text takes out of the device, if that is wanted.
        battery: tells its charge to policies, if they want to know.
        data: counts the bytes of a day, where they are limited.
        texts: tokenizers of targets; None where prompts are made elsewhere, for targets of this fingerprint.
        memory: earlier answers to draft from; None remembers none.
        local: model of the device's own that writes texts by itself; None without one.
        telemetry: told of texts; None where nobody wants it.

    Attributes:
        settings: settings of the device.
        wire: way of its messages to payloads and back.
        directory: which workers are online; to read.
        devices: other devices, while somebody looks at the fleet.
        models: names that can be asked for.
        texts: tokenizers of targets.
        local: model of the device's own.
        requests: long requests, which workers fetch.
        link: the link to the broker; to read.
        state: whether it is online, degraded or offline; to read.
        status: the node's own status, with what was seen of each version; to read.
        failure: error that broke the node for good; None while it works.
        malformed: messages that could not be read, or made no sense.
        unclaimed: answers that a worker had left at the broker, and that were of no text of ours.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        drafter: Drafter | None,
        fingerprint: bytes,
        eos: tuple[int, ...],
        *,
        family: FamilyCatalogue | None = None,
        energy: EnergyMeter | None = None,
        battery: BatteryGauge | None = None,
        data: DailyData | None = None,
        texts: TargetTexts | None = None,
        memory: AnswerMemory | None = None,
        local: DraftModel | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.settings = settings
        self._estimates = NodeEstimates()
        self._queue = PublishQueue(on_published=self._published)
        self.wire = wire_of(settings, self._queue.put)
        self._sessions: dict[int, Generation] = {}
        self._drafts = DraftLoop(drafter, self._sessions, self._estimates, self._perform)
        self.requests = HeldRequests(settings.edge, self._sessions, self._queue.flush, self._carried)
        self._prefixes = PrefixIndex(most=16 if settings.reuse else 0)
        self._fingerprint = fingerprint
        self._eos = eos
        self._rng = random.Random(entropy.bits(64))  # noqa: S311  jitter and session names
        self._numbers = count(self._rng.randrange(_SESSIONS))
        self._verdicts = topics.verdict_topic(settings.edge)
        self._answers = ExpiringMap[int, bytes](most=2**31, most_weight=_UNCLAIMED, weigh=len)
        self.unclaimed = 0
        self._closes: deque[Outbound] = deque(maxlen=_CLOSES)  # of texts that ended while there was no link
        self._tick_at = inf
        self._tick: asyncio.TimerHandle | None = None
        self._timer_work = asyncio.Event()
        self._broken = asyncio.Event()
        self._quiet_until = 0.0
        self._violations = 0  # of texts that are over
        self._family = family
        self._energy = energy
        self._battery = battery
        self._data = data
        self._memory = memory
        self.local = local
        self.telemetry = telemetry
        if memory is not None and family is not None:
            family.on_versions(memory.keep)
        compare = texts.difference if texts is not None else lambda _status: Difference()
        allowed = None if settings.keys is None else self.wire.allowed
        self.devices = DeviceStatuses()
        self.directory = WorkerDirectory(allowed=allowed, compare=compare)
        self.texts = texts
        if texts is not None:
            texts.changed = self._texts_changed
        self.models = Models(self.directory, settings.version, family)
        self.link = LinkState()
        if data is not None:
            self.link.spent = data.spent
        self.state = NodeState(self.link, lambda: self.wire.lapsed or self.models.not_ready())
        self.status = StatusPublisher(settings, self._sessions, family, self.link, self.state)
        self.failure: FlexSpecError | None = None
        self.malformed = 0

    @property
    def sessions(self) -> int:
        """Texts being written."""
        return len(self._sessions)

    @property
    def violations(self) -> int:
        """Events that the protocol's table had no row for."""
        return self._violations + sum(text.machine.violations.total() for text in self._sessions.values())

    @property
    def plans(self) -> dict[str, Planned]:
        """The newest plan of each version of which a text was begun."""
        return self._estimates.plans()

    def provisional_share(self, version: str) -> ProvisionalShare:
        """How much of what the draft wrote alone for a version was confirmed lately."""
        return self._estimates.version(version, entropy.now()).provisional

    @property
    def active_versions(self) -> set[str]:
        """Versions of which a text is being written."""
        return {generation.machine.version for generation in self._sessions.values()}

    @property
    def name(self) -> str:
        """On topics."""
        return self.settings.edge

    @property
    def battery(self) -> float | None:
        """Charge of the battery in percent; None without one, or where no limit asks for it."""
        return None if self._battery is None else self._battery.left(entropy.now())

    def reports(self) -> tuple[LimitReport, ...]:
        """How the limits are kept that are no plan's."""
        return () if self._data is None else (self._data.report(),)

    @property
    def refused(self) -> Mapping[KeyReason, int]:
        """Messages that were not believed, by reason."""
        return self.wire.refusals.counts

    async def wait_broken(self) -> None:
        """Wait until the node is broken.

        Raises:
            FlexSpecError: what broke it.
        """
        await self._broken.wait()
        if self.failure is not None:
            raise self.failure

    @asynccontextmanager
    async def running(
        self, connect: LinkFactory, base: LinkSettings, within: float | None = None
    ) -> AsyncIterator[Self]:
        """Run the node inside the block; leaving cancels the texts that are still being written.

        Args:
            connect: makes the link.
            base: where and as whom to connect.
            within: seconds in which the link must come up for the first time; None waits for as long as it tries.

        Raises:
            LinkError: the broker refused, or could not be reached within `base.give_up_after`.
            LinkDown: it could not be reached `within` that time.
        """
        ours = replace(
            base,
            session_expiry=self.settings.session_expiry,
            awaited=lambda: bool(self._sessions or self.link.waiting),
            needs=FOR_SESSIONS,
            will=self.status.will,
            birth=lambda: [self.status.message()],
            subscriptions=(
                Subscription(self._verdicts),
                Subscription(topics.delivery_filter(self.settings.edge)),
                *self.wire.subscriptions,
            ),
        )
        async with connect(ours) as link:
            with closing(self._drafts), self.link.using(link):
                async with running(self._loops(link), "edge node"):
                    try:
                        if within is not None:
                            await link.wait_up(within)
                        await self.link.settled()
                        yield self
                    finally:
                        for generation in list(self._sessions.values()):
                            if generation.request.persisted:
                                self._end(generation, Finish(FinishReason.CANCELLED))
                            else:
                                self.cancel(generation)
                        if not await self._queue.flush(waiting.FAREWELL):
                            _log.info("left with %d messages unpublished", len(self._queue))
                        if self._data is not None:
                            self._data.save()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Follow workers and other devices for as long as the block lasts, as somebody looks at them."""
        with self.devices.watched():
            self.directory.follow()
            yield

    def generate(self, request: GenerationRequest) -> Generation:
        """Start a text. Iterate over the result; give it to `cancel` when it is not wanted any more.

        Raises:
            FlexSpecError: the node is broken: one of its loops died of this.
            OtherText: it is not the text that is to be resumed.
            UsageError: the deployment has no opening key for the version.
            WorkerError: the deployment's statement has expired.
        """
        if self.failure is not None:
            raise self.failure
        # One after the other from a random start: no number comes again while any worker may remember it.
        numbers, resume = (1 + number % _SESSIONS for number in self._numbers), request.resume
        session = (
            resume.session
            if resume is not None
            else next(each for each in numbers if each not in self._sessions)
        )
        version = request.version or self.settings.version
        text = request.text
        fingerprint = self._fingerprint if text is None else text.fingerprint
        identity = Identity(
            request.sampling.rule,
            fingerprint,
            request.sampling,
            self._eos if text is None else text.eos,
            request.ignore_eos,
            request.limit,
            None if request.grammar is None else request.grammar.digest(request.engine),
        )
        now = entropy.now()
        energy = self.text_energy()
        memory = self._memory
        source = text.source if text is not None and isinstance(text.source, str) else ""
        whose = version, request.digest, request.user, fingerprint, source
        answers = None if memory is None else memory.of(*whose)
        machine = EdgeSession(
            SessionRequest(
                session=session,
                version=version,
                identity=identity,
                prompt=request.prompt,
                committed=() if resume is None else resume.committed,
                attempts=0 if resume is None else resume.attempts,
                deliver=request.deliver,
                finish_at=request.finish_at,
                keyed=self.wire.keyed,
                answer_timeout=self.link.answer_timeout,
                reuse=self._prefixes.offer(version, request.prompt, now),
                grammar=b"" if request.grammar is None else request.grammar.pack(),
            ),
            request.policy,
            self._rng,
            self._estimates,
            partial(self._device_reading, energy) if energy or self._battery else None,
            partial(self.directory.elsewhere, version),
        )
        if resume is not None and machine.root != resume.root:
            raise OtherText(
                "this node would write another text now than the one that it began before it was restarted",
                hint="model, prompt template or software have changed meanwhile; ask again",
            )
        self.wire.begin(session, version, resume)
        self.directory.used()
        patience = Patience(
            machine,
            None if request.timeout is None else now + request.timeout,
            request.waits,
            partial(self._fall_back, version, request.alone) if request.provisional else None,
            self._estimates.version(version, now).provisional,
        )
        generation = self._sessions[session] = Generation(
            session, request, machine, patience, energy, answers
        )
        self.requests.hold(generation)
        if not self.link.is_up or self.link.spent():
            self._perform(generation, machine.link_down(now))
        if (answer := self._answers.pop(session)) is not None:
            self._receive(Inbound(topics.delivery_topic(self.name, session), answer), now)
        if session in self._sessions:  # else that was all of it, and nobody need be asked
            self._perform(generation, machine.start(now))
        return generation

    def _is_idle(self) -> bool:
        """Whether nothing is written or looked at, and a text could begin at once, as far as anybody knows."""
        looked_at = self._sessions or self.devices.watchers
        ready = self.link.spent() or not self.models.not_ready()
        return bool(not looked_at and self.link.is_up and ready)

    def _texts_changed(self) -> None:
        """A worker has told how its target's texts are written."""
        self.directory.changed()
        for status in self.directory.online():
            self.models.warn_of_difference(status)

    @property
    def may_write_alone(self) -> bool:
        """Whether there is a model that may write provisional text."""
        writes = self.local is not None or self.settings.draft != "none"
        return writes and self.settings.provisional_tokens > 0

    def text_energy(self) -> TextEnergy | None:
        """The count of a text's energy, from now on; None where nobody wants to know."""
        return None if self._energy is None else self._energy.text(entropy.now())

    def _fall_back(self, version: str, instead: Callable[[int], None] | None) -> int:
        """Nobody answers: the number of tokens that the draft may write, unless another model writes them."""
        most = self.alone_tokens(version)
        if instead is None:
            return most
        instead(most)
        return 0

    def alone_tokens(self, version: str) -> int:
        """Tokens that may be written alone now: none where a limit of battery or energy says so."""
        if self._battery is not None and self._battery.low(entropy.now()):
            return 0
        planned = self._estimates.plans().get(version)
        budgets = () if planned is None else planned.limits
        over = any(
            limit.name == "energy_budget" and limit.state in ("exceeded", "out_of_reach") for limit in budgets
        )
        return 0 if over else self.settings.provisional_tokens

    def _device_reading(self, energy: TextEnergy | None) -> DeviceReading:
        now = entropy.now()
        return DeviceReading(
            None if energy is None else energy.spent(now).joules,
            None if self._battery is None else self._battery.left(now),
        )

    def cancel(self, generation: Generation) -> None:
        """The user does not want this text any more; its worker is told."""
        if generation.session in self._sessions:
            self._perform(generation, generation.machine.cancel(entropy.now()))

    async def _loops(self, link: Link) -> None:
        """All that runs beside the block. A loop that dies ends the others and fails every text."""
        named = {
            "receive": self._receive_loop(link),
            "draft": self._drafts.run(),
            "timer": self._timer_loop(),
            "publish": self._queue.run(link),
            "directory": self.directory.watch(link, self._is_idle),
            "devices": self.devices.run(link),
            "status": self.status.run(self._queue.put),
            "requests": self.requests.run(link, self._give_up),
        }
        if self.wire.keyed:
            named["statement"] = self.wire.watch()
        if self.texts is not None:
            named["texts"] = self.texts.run(link)
            named["fetched draft"] = self.texts.fetch_draft(link)
        if self._family is not None:
            named["family"] = self._family.run(link)
            named["family news"] = self.status.follow(self._family)
        try:
            async with asyncio.TaskGroup() as loops:
                for name, loop in named.items():
                    loops.create_task(loop, name=name)
        except ExceptionGroup as died:
            first = died.exceptions[0]
            self.failure = _as_error(first)
            # A link that failed for good is told by whoever runs the node.
            expected = isinstance(first, LinkError)
            _log.log(logging.INFO if expected else logging.ERROR, "a loop of the node failed", exc_info=first)
            for generation in list(self._sessions.values()):
                self._end(generation, Finish(FinishReason.FAILED, self.failure))
            self._broken.set()
            self.link.up()  # whoever waits for the link learns what broke the node

    async def _receive_loop(self, link: Link) -> None:
        async for event in link.events():
            now = entropy.now()
            if isinstance(event, Inbound):
                self._estimates.received(len(event.payload), now)
                self._carried(len(event.payload) + OVERHEAD_DOWN)
                self._receive(event, now)
                continue
            _log.info("%s", event)
            up = isinstance(event, LinkUpEvent)
            if up:
                self._estimates.disconnects.link_up(now)
                self.link.up()
                while self._closes:
                    self._queue.put(self._closes.popleft())
            else:
                self._estimates.disconnects.link_down(now)
                self.link.down(now)
                self.directory.link_lost()
            self.state.look()
            for generation in [] if self.link.spent() else list(self._sessions.values()):
                machine, span = generation.machine, generation.request.span
                if span is not None:
                    span.event("flexspec.link.up" if up else "flexspec.link.lost")
                self._perform(generation, machine.link_up(now) if up else machine.link_down(now))

    def _published(self, qos: int, size: int, seconds: float, now: float) -> None:
        self._estimates.published(qos, size, seconds, now)
        self._carried(size + OVERHEAD_UP)

    def _carried(self, size: int) -> None:
        """Count bytes of IP; with the last ones of the day all texts end."""
        if self._data is not None and self._data.add(size):
            for generation in list(self._sessions.values()):
                self._give_up(generation, DataSpent(self._data.spent()))

    def _receive(self, inbound: Inbound, now: float) -> None:
        try:
            if inbound.topic == self._verdicts:
                self._receive_message(inbound.payload, now)
            elif (session := topics.session_of_delivery(inbound.topic, self.name)) is not None:
                self._receive_delivery(session, inbound.payload, now)
            elif (worker := topics.worker_of_status(inbound.topic)) is not None:
                self._receive_status(worker, inbound, now)
            elif (
                self.requests.take(inbound.topic, inbound.payload)
                or self.devices.take(inbound.topic, inbound.payload)
                or (self.texts is not None and self.texts.take(inbound.topic, inbound.payload))
            ):
                pass
            elif not self.wire.take(inbound.topic, inbound.payload) and self._family is not None:
                self._family.take(inbound.topic, inbound.payload)
        except KeysRefused as error:
            self.wire.refused(inbound.topic, error, now)
        except RemoteProtocolError as error:
            self.malformed += 1
            if now >= self._quiet_until:
                self._quiet_until = now + _TELL_EVERY
                _log.warning("%s (%d so far)", error.message, self.malformed)

    def _receive_message(self, payload: bytes, now: float) -> None:
        message = self.wire.decode(payload, self._sessions, now)
        if message is None:
            return
        generation = self._sessions.get(message.session)
        if generation is not None and self._stale_defaults(generation, message):
            generation = None  # its worker is told to close it, as one that is none of ours
        if generation is not None:
            generation.received(len(payload))
            self._perform(generation, generation.machine.receive(message, now))
        elif isinstance(message, Verdict | Delivery):
            for send in close_unknown(message):
                topic = topics.draft_topic(str(send.to_worker), self.settings.edge)
                self._queue.put(Outbound(topic, self.wire.encode(send, now), send.qos))
        elif not message.session:
            what = "did not read messages" if message.code is ErrorCode.BUSY else "could not read a message"
            _log.warning("worker %s %s of ours: %s", message.worker, what, message.detail)

    def _receive_delivery(self, session: int, payload: bytes, now: float) -> None:
        """Take an answer that a worker left at the broker, and clears there when the session is closed.

        If it comes before its text, as the node has just started, it waits for that.
        """
        if session in self._sessions and payload:
            self._receive_message(payload, now)
            return
        waits = self._answers.pop(session) is not None
        if payload:  # else it was cleared
            self._answers.put(session, payload, now)
            if not waits:  # the broker sends it again over each new connection
                asyncio.get_running_loop().call_later(2 * waiting.STARTS, self._give_back, session)

    def _give_back(self, session: int) -> None:
        """No text has begun that this answer is of: its worker need not keep it, if it can be read who that is."""
        if (payload := self._answers.pop(session)) is not None:
            self.unclaimed += 1
            self._receive(Inbound(self._verdicts, payload), entropy.now())

    def _stale_defaults(self, generation: Generation, message: Verdict | Delivery | Error) -> bool:
        """Take what a session's worker says of sampling; whether that ended the session, to be begun again."""
        request, version = generation.request, generation.machine.version
        if not isinstance(message, Verdict) or message.recommended is None or message.worker is None:
            return False
        believed = self.directory.take_recommendation(version, message.worker, message.recommended)
        if not believed or request.recommended is None or generation.machine.committed:
            return False
        if request.recommended(message.recommended) == request.sampling:
            return False
        _log.info("session %d: worker %s recommends another sampling", generation.session, message.worker)
        generation.stale_defaults = True
        self.cancel(generation)
        return True

    def _receive_status(self, worker: str, inbound: Inbound, now: float) -> None:
        news = self.directory.take(worker, inbound.payload, retained=inbound.retain)
        if news is None:
            return
        status = news.status
        self._estimates.stated(worker, _stated_times(status), now)
        if status.state == "gone":
            self._prefixes.forget(worker)
        if self.texts is not None:
            self.texts.heard(status, now, wanted=bool(self.models.meant(status)))
        self.models.warn_of_difference(status)
        self.state.look()
        for generation in list(self._sessions.values()) if news.ended or news.begins else ():
            machine = generation.machine
            if news.ended and machine.worker == worker:
                _log.info("session %d: worker %s is %s; asking it", generation.session, worker, status.state)
                if generation.request.span is not None:
                    generation.request.span.event("flexspec.worker." + status.state, worker=worker)
                self._perform(generation, machine.worker_gone(worker, now))
            elif machine.version in news.begins and machine.worker in {None, worker}:
                self._perform(generation, machine.worker_online(now))

    def _perform(self, generation: Generation, effects: Iterable[Effect]) -> None:
        """Carry out what a machine wants, in order, and note what it waits for."""
        for effect in generation.patience.watch(effects):
            if isinstance(effect, Send):
                self._publish(generation, effect)
            elif isinstance(effect, Finish):
                self._end(generation, effect)
            else:
                generation.put(effect)
        if generation.session in self._sessions:
            self._tick_by(generation.patience.next_tick())
            self._drafts.want(generation)

    def _publish(self, generation: Generation, send: Send) -> None:
        try:
            payload = self.wire.encode(send, entropy.now())
        except KeysRefused as error:
            _log.warning("session %d: not sent: %s", generation.session, error.message)
            return
        except (UsageError, LocalProtocolError) as error:
            # Prompt and text have outgrown what a message can hold, or the request has a value that none can hold.
            self._give_up(generation, error)
            return
        generation.sent(len(payload))
        if send.to_worker is None:
            topic = topics.open_topic(generation.machine.version, self.settings.edge)
        else:
            topic = topics.draft_topic(send.to_worker, self.settings.edge)
        span = generation.request.span
        context = span.carrier if span is not None and isinstance(send.message, Open) else ()
        message = Outbound(topic, payload, send.qos, expiry=send.expiry, user=context)
        if isinstance(send.message, Close) and not self.link.is_up:
            self._closes.append(message)
        else:
            self._queue.put(message, partial(self._lost, generation, send))

    def _give_up(self, generation: Generation, error: FlexSpecError) -> None:
        """End a text that cannot go on; its workers are told, and no other text is touched."""
        self._end(generation, Finish(FinishReason.FAILED, error))
        self._perform(generation, generation.machine.cancel(entropy.now()))

    def _end(self, generation: Generation, finish: Finish) -> None:
        session, machine = generation.session, generation.machine
        if self._sessions.pop(session, None) is None:
            return
        self.requests.drop(generation)
        self.wire.ended(session, entropy.now())
        self._violations += machine.violations.total()
        if machine.written is not None:
            self._prefixes.remember(machine.version, machine.written, entropy.now())
        answers, answer = generation.answers, machine.committed
        remember = answers and answer and partial(answers.add, generation.request.prompt, answer)
        self._drafts.free(session, remember or None)
        _log.info("session %d: %s", session, finish.reason)
        if isinstance(finish.error, WorkerError) and not machine.counters.verdicts:
            finish = replace(finish, error=self.wire.explained(finish.error, generation.asked))
        self.status.count(generation, finish)
        generation.put(finish)

    def _lost(self, generation: Generation, send: Send, error: LinkDown | PublishRefused) -> None:
        """A publish failed. The protocol covers it, except that it wants to know when nobody listens."""
        alive, machine, now = generation.session in self._sessions, generation.machine, entropy.now()
        reason = error.reason_code if isinstance(error, PublishRefused) else None
        if reason == NO_SUBSCRIBERS:
            if send.to_worker is not None:
                self._prefixes.forget(send.to_worker)
            if alive and send.to_worker is None:
                self._perform(generation, machine.no_worker(now))
            elif alive and isinstance(send.message, Open):
                self._perform(generation, machine.prefix_lost(now))
        elif alive and reason in _FINAL_REFUSALS and not isinstance(send.message, Close):
            self._give_up(generation, error)  # the broker will never take this message
        else:
            _log.info("session %d: lost a message: %s", generation.session, error.message)

    def _tick_by(self, due: float) -> None:
        """Look at the timers when this is due, on the event loop's clock, which is the machines' too."""
        if due >= self._tick_at:
            return
        self._tick_at = due
        if self._tick is not None:
            self._tick.cancel()
        self._tick = asyncio.get_running_loop().call_at(due, self._timer_work.set)

    async def _timer_loop(self) -> None:
        while True:
            await self._timer_work.wait()
            self._timer_work.clear()
            self._tick_at, now = inf, entropy.now()
            for generation in list(self._sessions.values()):
                due = generation.patience.next_tick()
                if due <= now:
                    self._perform(generation, generation.patience.tick(now))
                else:
                    self._tick_by(due)


def _stated_times(status: WorkerStatus) -> StatedTimes:
    """Convert the times in a worker's status to seconds; the schema bounds them."""
    times = (status.forward_ms, status.row_ms, status.draft_ms, status.draft_read_ms)
    return StatedTimes(*(None if ms is None else ms / 1000 for ms in times))


def _as_error(error: BaseException) -> FlexSpecError:
    if isinstance(error, FlexSpecError):
        return error
    return FlexSpecError(f"the edge node failed: {error!r}", hint="this is a bug; its log has the traceback")
