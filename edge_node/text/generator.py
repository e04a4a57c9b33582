"""Writes texts: each is one session of the edge node, from the prompt to characters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from edge_node.generation import Generation, GenerationRequest, OtherText, Resume, Shown
from edge_node.outbox.entries import Opening
from edge_node.text.decoding import Piece, PieceDecoder, StopFinder
from edge_node.text.encoding import Encoded, Encoder, ServerTakes
from edge_node.text.machine import EndReason
from edge_node.text.service import Service, Wait
from edge_node.text.spec import SEED_BITS, WHOLE_CONTEXT, TextSpec
from edge_node.text.tracing import note_outcome, text_span
from edge_node.text.voice import Speaking, Voice
from flexspec_mq import entropy, waiting
from flexspec_mq.catalogue.naming import NoSuchVersion
from flexspec_mq.controller.explain import Planned, in_words
from flexspec_mq.controller.plan import STREAM, FixedPolicy, Policy
from flexspec_mq.controller.policies import name_of
from flexspec_mq.energy.model import per_hundred
from flexspec_mq.errors import (
    Cancelled,
    FlexSpecError,
    TimeIsOver,
    WorkerError,
    WorkersBusy,
)
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.grammar.tools import ToolFormat
from flexspec_mq.models.byte_text.ids import ByteEnd, served_usage
from flexspec_mq.protocol.edge.patience import Waits
from flexspec_mq.protocol.effects import Commit, Finish, FinishReason, ProvisionalDraft
from flexspec_mq.telemetry import TextSpan
from schemas.messages import PartialSampling
from schemas.node import TextFigures
from schemas.plan import PlanStatus

if TYPE_CHECKING:
    from edge_node.node import EdgeNode
    from edge_node.outbox.outbox import TextRecord
    from flexspec_mq.models.load import LoadedText

_REASONS: dict[FinishReason, EndReason] = {
    FinishReason.EOS: "stop",
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.PROVISIONAL: "provisional",
}
_SERVED: dict[int, EndReason] = {ByteEnd.LENGTH: "length", ByteEnd.CONTENT_FILTER: "content_filter"}
_LOOK = 0.05
"""Seconds between two looks whether somebody serves a text that has not begun."""

_log = logging.getLogger(__name__)


class CompletionGenerator:
    """Writes texts through one edge node.

    Args:
        node: runs.
        model: whose tokenizer prompts and answers go through.
        policy: makes the policy of each session.
        default_limit: tokens of a text whose request names no limit.
        deliver: seconds for which the broker keeps an answer that is to be delivered.

    Attributes:
        voice: model of the device's own that writes by itself; None without one.
        closed: the node stops: persisted texts are resumed by its next start, and no worker is told of their end.
    """

    def __init__(
        self,
        node: EdgeNode,
        model: LoadedText | None,
        policy: Callable[[], Policy],
        default_limit: int = WHOLE_CONTEXT,
        deliver: int = 0,
    ) -> None:
        self.node = node
        self.model = model
        self.policy = policy
        self.deliver = deliver
        self.closed = False
        self._newest = asyncio.Event()  # whether the newest text has begun
        self._newest.set()
        self.encoder = Encoder(default_limit)
        self.voice = None if node.local is None else Voice(node.local, node, self.encoder)

    def close(self) -> None:
        """Take no more prompts."""
        self.encoder.close()
        if self.voice is not None:
            self.voice.close()

    @asynccontextmanager
    async def writing(
        self,
        spec: TextSpec,
        told: Callable[[Wait], None] = lambda _wait: None,
        record: TextRecord | None = None,
        speaking: Speaking | None = None,
    ) -> AsyncIterator[Writing]:
        """Begin a text; it is cancelled at the end of the block, up to the worker.

        Args:
            spec: the text.
            told: told whom the text waits for, each time that it begins to.
            record: page of the text in the outbox; None where it is not persisted.
            speaking: writes in the target's place while nobody answers, unless it is the draft; None has that do so.

        Raises:
            PromptError: the prompt cannot be taken.
            LinkError: there is no link to the broker.
            NoSuchVersion: nothing goes by the name of the version that is asked for.
            NoCatalogue: there is no catalogue to look it up in.
        """
        began = entropy.now()
        delivers = self.deliver if spec.offline == "deliver" else 0  # seconds: such a text waits as long
        waits = Waits.of(spec.wait or delivers or self.node.settings.wait)
        with text_span(self.node, spec) as span:
            tell = told if span is None else partial(_tell_span, span, told)
            alone = spec.offline == "provisional" and self.node.may_write_alone
            opened = None if record is None else record.opened
            service = Service(
                self.node,
                spec.version if opened is None else opened.version,
                spec.named,
                waits,
                tell,
                spec.timeout or inf,
                alone=alone,
            )
            before, self._newest = self._newest, (begun := asyncio.Event())
            try:
                offline = not self.node.link.is_up
                await service.linked()
                if offline:  # texts that waited for the link together open in their order
                    with suppress(TimeoutError):
                        async with asyncio.timeout(waiting.ANSWER):
                            await before.wait()
                writing = Writing(self, spec, began, service, span, record, speaking)
                await writing.begin()
            finally:
                begun.set()
            try:
                yield writing
            finally:
                if record is None or not self.closed:
                    self.node.cancel(writing.generation)
                if span is not None:
                    finish = getattr(writing, "finish", None)
                    note_outcome(span, writing.generation, writing.figures(), finish)


def _tell_span(span: TextSpan, told: Callable[[Wait], None], wait: Wait) -> None:
    span.event("flexspec.waiting", whom=wait.what)
    told(wait)


class Writing:
    """A text that is being written.

    Attributes:
        generation: the session that writes it.
        finish: why the text ended, once all its pieces were read.
        tokens: whose text was read, or held back.
        span: span of the text; None where nobody wants it.
    """

    generation: Generation
    finish: Finish
    _encoded: Encoded
    _takes: ServerTakes

    def __init__(
        self,
        by: CompletionGenerator,
        spec: TextSpec,
        began: float,
        service: Service,
        span: TextSpan | None = None,
        record: TextRecord | None = None,
        speaking: Speaking | None = None,
    ) -> None:
        self._by = by
        self._speaking = speaking
        self._record = record
        self._resumed = None if record is None else record.opened
        self.tokens = 0 if record is None else len(record.tokens)
        self._spec = spec
        self.span = span
        self._began = began
        self._first: float | None = None  # commit
        self._drawn = entropy.bits(SEED_BITS)
        self._service = service
        self._exactness, self._weights = "unknown", ""
        self._again = False  # it was begun again with what its worker recommends

    async def begin(self) -> None:
        """Open a session."""
        try:
            await self._service.resolve()
        except NoSuchVersion:
            if self._resumed is None or self.tokens:
                raise
            self._begin_anew()
            await self._service.resolve()
        await self._open()

    @property
    def version(self) -> str:
        """Target version that writes it."""
        return self._service.target.version

    @property
    def form(self) -> ToolFormat:
        """How its target writes calls of tools."""
        return self._encoded.form

    def figures(self) -> TextFigures:
        """Figures of the text until now."""
        if self._exactness == "unknown":
            self._exactness, self._weights = self._by.node.directory.described(self.version)
        now, first, generation = entropy.now(), self._first, self.generation
        machine, counters = generation.machine, generation.machine.counters
        seen, sampling = machine.observation, generation.request.sampling
        tokens = seen.committed
        spent, planned = generation.spent(), machine.planned
        told = served_usage(machine.committed) if self.form.channels else None
        return TextFigures(
            prompt_tokens=len(generation.request.prompt) if told is None else told.prompt_tokens,
            tokens=tokens if told is None else told.completion_tokens,
            resumed="" if told is None else told.resumed,
            seconds=now - self._began,
            first_token=None if first is None else first - self._began,
            plan=None if planned is None else plan_told(planned),
            proposed=counters.proposed,
            drafted=counters.judged,
            accepted=counters.accepted,
            looked_up=counters.looked_up_accepted,
            worker_accepted=counters.worker_accepted,
            forced=counters.forced,
            provisional=generation.patience.shown,
            provisional_confirmed=generation.patience.confirmed,
            provisional_stopped=generation.patience.stopped,
            delivers=machine.delivers,
            rounds=counters.rounds,
            rtt_ms=None if seen.rtt is None else 1000 * seen.rtt,
            bytes_up=generation.bytes_up,
            bytes_down=generation.bytes_down,
            polls=counters.polls,
            reopens=counters.reopens,
            energy_j=spent.joules,
            energy_j_per_100=None if spent.joules is None else per_hundred(spent.joules, tokens),
            energy_source=spent.source,
            limits=[*(() if planned is None else planned.limits), *self._by.node.reports()],
            worker=machine.worker,
            version=self._service.target.version,
            digest=self._service.target.digest,
            exactness=self._exactness,
            weights=self._weights,
            **{name: getattr(sampling, name) for name in ("seed", *PartialSampling.__struct_fields__)},
            default_limit=self._encoded.limit if self._encoded.by_default else None,
        )

    @property
    def reason(self) -> EndReason:
        """Why the text ended, once it has."""
        last = self.generation.machine.committed[-1:]
        if self.finish.reason is FinishReason.EOS and self.form.channels:
            return _SERVED.get(last[0], "stop")
        return _REASONS[self.finish.reason]

    async def pieces(self) -> AsyncGenerator[list[Piece] | str]:
        """Pieces to show after each commit, maybe none, and at the end; or all that is provisional behind them.

        Raises:
            FlexSpecError: what made the text fail.
        """
        decoder = beyond = self._decoder()
        provisional = ""
        for commit in [] if self._record is None else self._record.commits:
            yield decoder.push(commit)
        async for event in self._events():
            if not self.tokens:  # until something is committed, another target may take the text
                decoder = self._decoder()
            if isinstance(event, ProvisionalDraft):
                if event.start == self.tokens:
                    beyond, provisional = self._decoder(), ""
                    beyond.text(self.generation.machine.committed[: self.tokens])
                provisional += beyond.text(event.tokens)
                yield provisional
                continue
            if isinstance(event, Commit):
                await self._committed(event)
                yield decoder.push(event)
                continue
            self.finish = event
            if (error := self._error(event)) is not None:
                raise error
            if rest := decoder.finish():
                yield rest

    async def _committed(self, commit: Commit) -> None:
        if self._first is None:
            self._first = entropy.now()
        self.tokens += len(commit.tokens)
        if self.span is not None:
            self.span.committed(len(commit.tokens), self.generation.machine.worker)
        if self._record is not None:
            await self._record.commit(commit, again=not self.form.channels)

    def _decoder(self) -> PieceDecoder:
        return PieceDecoder(self._encoded.text.tokenizer, self._spec.stops, self._encoded.before)

    async def _events(self) -> AsyncIterator[Shown]:
        """Parts of the session's text and its finish, unless nobody serves its version."""
        begun, heard = self.tokens > 0, entropy.now()
        while True:
            event = await self.generation.event(2 * waiting.ANSWER if begun else _LOOK)
            stuck, patience = event is None and not begun, self.generation.patience
            alone = self._speaking if self.generation.request.alone else None
            wrote, shown = (
                (patience.wrote_alone, patience.shown) if alone is None else (alone.over, alone.shown)
            )
            if stuck and self._service.settled_alone(self.generation, wrote=wrote, shown=shown):
                self._by.node.cancel(self.generation)
                yield Finish(FinishReason.PROVISIONAL)
                return
            if stuck and not self._service.alone and self._service.unserved(self.generation):
                self._by.node.cancel(self.generation)
                self._begin_anew()
                await self._service.wait()
                await self._open()
                continue
            confirms = isinstance(event, Commit | Finish)
            if not confirms and entropy.now() - heard >= 2 * waiting.ANSWER:
                self._service.tell(self.generation)
            if event is None:
                continue
            if not begun and self.generation.stale_defaults:
                self._again = True
                self._begin_anew()
                yield ProvisionalDraft(0, ())
                await self._open()
                continue
            if confirms:
                if not begun and self.generation.request.deliver and not self.generation.machine.delivers:
                    _log.warning(
                        "session %d: no place to keep its answer: it waits for this device like any other",
                        self.generation.session,
                    )
                begun, heard = True, entropy.now()
                self._service.goes_on()
            yield event
            if isinstance(event, Finish):
                return

    async def _open(self) -> None:
        spec, record, opened = self._spec, self._record, self._resumed
        directory = self._by.node.directory
        text = await self._service.text(self._by.model)
        engine = directory.grammar_engine(self.version) if opened is None else opened.engine
        if not engine and opened is None and (spec.grammar is not None or spec.tools is not None):
            soon = 0.3 * self._by.node.link.answer_timeout  # another worker's status may be on its way
            await directory.wait_until(lambda: bool(directory.grammar_engine(self.version)), soon)
            engine = directory.grammar_engine(self.version)
        takes = self._takes = self._server_takes()
        encoded = self._encoded = await self._by.encoder.encoded(text, spec, engine or engine_name(), takes)
        if encoded.grammar is not None and not engine:
            raise WorkerError(
                f"no worker of {self.version} can hold a text to a grammar, as tools and schemas need it",
                hint="install llguidance where the workers run, and start them again",
            )
        sampling = partial(spec.sampled, self._drawn)
        recommended, limit, resume = directory.recommended(self.version), encoded.limit, None
        if record is not None and opened is not None:
            recommended, limit = opened.sampling, opened.limit
            resume = Resume(
                session=opened.session,
                restarts=record.restarts,
                root=opened.root,
                private=opened.private,
                committed=record.tokens,
            )
        speaking = self._speaking
        if speaking is not None and speaking.voice.drafts(text):
            speaking.end()
            speaking = None
        request = GenerationRequest(
            prompt=encoded.prompt,
            sampling=sampling(recommended),
            limit=limit,
            policy=FixedPolicy(STREAM) if encoded.form.channels else self._by.policy(),
            ignore_eos=spec.ignore_eos,
            finish_at=StopFinder(text.tokenizer, spec.stops, encoded.before) if spec.stops else None,
            timeout=self._left,
            waits=self._service.waits,
            version=self.version,
            digest=self._service.target.digest,
            prediction=encoded.prediction,
            user=spec.user,
            recommended=sampling if spec.leaves_to_target and not (self._again or self.tokens) else None,
            text=text,
            grammar=encoded.grammar,
            engine=engine,
            compiled=encoded.compiled,
            span=self.span,
            provisional=self._service.alone and not (speaking is None and encoded.form.channels),
            alone=None if speaking is None else speaking.begin,
            packed=encoded.packed,
            persisted=record is not None,
            resume=resume,
            deliver=self._by.deliver if spec.offline == "deliver" else 0,
        )
        try:
            self.generation = self._by.node.generate(request)
        except OtherText:
            if not self.tokens:
                self._begin_anew()
            elif directory.blind or self._service.is_online:
                raise
            else:  # its target may have a tokenizer of its own, which its workers tell
                await self._service.wait()
            await self._open()
            return
        if speaking is not None:
            speaking.spent = self.generation.drafted
        _log.info("session %d of version %s begins", self.generation.session, self.version)
        if record is not None and resume is None:
            record.open(self._opened(engine))

    def _begin_anew(self) -> None:
        """Forget the session of an earlier incarnation: nothing of its text was shown."""
        self._resumed, self._service.model = None, self._spec.version

    def _opened(self, engine: str) -> Opening:
        """Facts by which another incarnation of the node goes on with the session."""
        session, request = self.generation.session, self.generation.request
        return Opening(
            session=session,
            version=self.version,
            sampling=request.sampling,
            limit=request.limit,
            engine=engine,
            root=self.generation.machine.root,
            private=self._by.node.wire.private(session),
            secret=self._takes.secret,
        )

    def _server_takes(self) -> ServerTakes:
        """The least that workers of the version take for a server, and the secret of what they fetch."""
        statuses, secret = self._by.node.directory.statuses(self.version), b""
        if self._by.node.wire.keyed:
            secret = entropy.chance.randbytes(32) if self._resumed is None else self._resumed.secret
        return ServerTakes(
            min((status.request_bytes for status in statuses), default=0),
            min((status.image_bytes for status in statuses), default=0),
            secret,
        )

    @property
    def _left(self) -> float | None:
        """Seconds until the text's time is over; more than none."""
        if self._spec.timeout is None:
            return None
        return max(self._began + self._spec.timeout - entropy.now(), 0.001)

    def _error(self, finish: Finish) -> FlexSpecError | None:
        machine = self.generation.machine
        if finish.reason is FinishReason.DEADLINE:
            return TimeIsOver(
                f"the text was not complete after {self._spec.timeout:g} s",
                hint="allow more time, or ask for fewer tokens",
            )
        if finish.reason is FinishReason.CANCELLED:
            return Cancelled("the edge node is stopping")
        error = finish.error
        if isinstance(error, WorkerError) and machine.counters.busy and not machine.observation.committed:
            return WorkersBusy(error.message, hint=error.hint)
        return error


def plan_told(planned: Planned) -> PlanStatus:
    """A plan as the API tells it."""
    plan = planned.plan
    return PlanStatus(
        policy=name_of(planned.policy),
        does=in_words(plan),
        draft_length=plan.draft_length,
        in_flight=plan.in_flight,
        ahead=plan.ahead,
        worker_draft=plan.worker_draft,
        qos=plan.qos,
        confidence_threshold=plan.confidence_threshold,
    )
