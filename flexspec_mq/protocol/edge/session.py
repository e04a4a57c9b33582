"""The edge's machine of one session: opens, adopts a worker, sends drafts, commits verdicts, finishes.

No I/O and no clock: every call takes `now` in seconds and returns effects. `TABLE`, at the end, says what happens in
which state and where it leads; being offline is a flag beside the state, under which no timer runs and nothing is sent
but closes, which the driver keeps until the link is up. How long a user waits is `patience`'s.
"""

import random
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.explain import Planned
from flexspec_mq.controller.observation import DeviceReading, Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.session import Added, SessionController
from flexspec_mq.errors import FlexSpecError, LocalProtocolError
from flexspec_mq.protocol.edge import failures
from flexspec_mq.protocol.edge.peers import Peers
from flexspec_mq.protocol.edge.sender import Sender
from flexspec_mq.protocol.edge.text import Agreement, Committed, SessionText
from flexspec_mq.protocol.edge.timers import SessionTimers, Silence
from flexspec_mq.protocol.edge.types import (
    DraftRequest,
    DraftToken,
    EdgeCounters,
    EdgeEvent,
    EdgeState,
    SessionRequest,
    Written,
)
from flexspec_mq.protocol.effects import Commit, Effect, Finish, FinishReason, Send
from flexspec_mq.protocol.table import Rows, TransitionTable
from schemas.messages import (
    Close,
    CloseReason,
    Delivery,
    Error,
    ErrorCode,
    Fin,
    Verdict,
)
from schemas.openai import StoppedAlone

_CLOSE_REASONS = {
    FinishReason.CANCELLED: CloseReason.CANCELLED,
    FinishReason.DEADLINE: CloseReason.CANCELLED,
    FinishReason.PROVISIONAL: CloseReason.CANCELLED,
    FinishReason.FAILED: CloseReason.FAILED,
}
_MAX_FAILURES = 5
"""Divergences and internal errors in a row, without a new token between, that are not yet a failure."""
_ERRORS = {
    ErrorCode.BUSY: EdgeEvent.BUSY,
    ErrorCode.NEED_PREFIX: EdgeEvent.NEED_PREFIX,
    ErrorCode.UNKNOWN: EdgeEvent.UNKNOWN,
    ErrorCode.INTERNAL: EdgeEvent.INTERNAL,
}
"""Errors of other codes refuse the session for good."""
_ERROR_EVENTS = (*_ERRORS.values(), EdgeEvent.REFUSED)
_LATE_EVENTS = (
    EdgeEvent.DRAFTED,
    EdgeEvent.NO_DRAFT,
    EdgeEvent.ONLINE,
    EdgeEvent.NO_WORKER,
    EdgeEvent.PREFIX_LOST,
    EdgeEvent.CANCEL,
)
"""Events that may still come to a session that is over, and do not concern it."""

_NEW, _OPENING, _ACTIVE, _DONE = EdgeState.NEW, EdgeState.OPENING, EdgeState.ACTIVE, EdgeState.DONE
_LIVE, _BEGUN, _ALL = (_OPENING, _ACTIVE), (_OPENING, _ACTIVE, _DONE), tuple(EdgeState)


def close_unknown(message: Verdict | Delivery) -> list[Send]:
    """Close a session that this edge does not know (any more), if a worker says that it holds it."""
    if message.worker is None:
        return []
    have = message.start if isinstance(message, Verdict) else len(message.tokens)
    close = Close(message.session, message.attempt, have, CloseReason.DONE)
    return [Send(message.worker, close, 0, None)]


class EdgeSession:
    """A generation at the edge.

    It alone knows state, peers, timers and counters, and tells its text and its sender what happens; these two know
    the tokens and the messages.

    Args:
        request: text to generate.
        policy: asked for a plan before each batch.
        rng: jitter.
        estimates: knowledge of the node from other sessions; None when there is none.
        device: reads energy and battery of the device; None where nothing tells.
        others: given a worker, whether another one may take the text as well; given None, whether more than one may.

    Attributes:
        counters: counts since it began, to read.
        violations: events that have no row in the state that they met.
        finished: why the text ended; None while it goes on.
        online: whether there is a link to the broker.
        nobody: true if the broker says that nobody listens to opens of the version, and no worker has answered since.
        delivers: seconds for which the adopted worker keeps the answer at the broker, should this edge be away when it
            is written; 0 if it does not.
        written: text that the worker of a session that is over holds, and another text could go on from.

    Raises:
        LocalProtocolError: the request can never be opened.
    """

    def __init__(
        self,
        request: SessionRequest,
        policy: Policy,
        rng: random.Random,
        estimates: NodeEstimates | None = None,
        device: Callable[[], DeviceReading] | None = None,
        others: Callable[[str | None], bool] = lambda _: True,
    ) -> None:
        if not request.prompt or request.identity.limit < 1:
            raise LocalProtocolError("a session needs a prompt and a limit of at least 1")
        if request.reuse is not None and not 0 < request.reuse.count < len(request.prompt):
            raise LocalProtocolError("a prefix is shorter than the prompt, and not empty")
        self._request = request
        self.counters = EdgeCounters()
        self.violations: Counter[tuple[EdgeState, EdgeEvent]] = Counter()
        self._rtt = RoundTrip(request.answer_timeout)
        self._control = SessionController(
            estimates or NodeEstimates(), policy, self._rtt, request.version, len(request.prompt), device
        )
        self._text = SessionText(request)
        self._peers = Peers(request.attempts)
        self._others = others
        self._timers = SessionTimers(self._rtt, rng)
        self._sender = Sender(request, self._rtt, self._text)
        self._out: list[Effect] = []
        self._state = EdgeState.NEW
        self.online = True
        self.finished: FinishReason | None = None
        self._plan: Plan | None = None
        self._wanted: DraftRequest | None = None
        self._wanted_since = 0.0  # since the drafter's newest answer, or nothing was wanted
        self._quiet = False  # nothing has happened that makes anything due to be sent
        self._expecting = False  # the adopted worker owes us an answer
        self._named = False  # the newest open named the beginning of the prompt, to one worker
        self._asked = False  # polled because of a hole, and nothing new since
        self._failures: list[str] = []  # of the text or the worker, in a row
        self._undone = 0  # adoptions that ended in "unknown", in a row
        self.nobody = False
        self.delivers = 0
        self.written: Written | None = None

    # What can be read

    @property
    def state(self) -> EdgeState:
        """Where the session stands."""
        return self._state

    @property
    def version(self) -> str:
        """Target version, for life."""
        return self._request.version

    @property
    def root(self) -> int:
        """Digest of the chain before the first token, which tells texts apart."""
        return self._text.chain.digest(0)

    @property
    def committed(self) -> tuple[int, ...]:
        """All decided tokens, resumed ones included. A copy."""
        return self._text.chain.tokens(0, self._text.committed)

    @property
    def worker(self) -> str | None:
        """Adopted worker, whose status is worth watching now."""
        return self._peers.worker

    @property
    def plan(self) -> Plan:
        """The plan for the next batch. The policy is asked after each batch and each commit."""
        if self._plan is None:
            self._plan = self._control.plan(*self._counts())
        return self._plan

    @property
    def planned(self) -> Planned | None:
        """The newest plan and where it comes from; None before any. The policy is not asked."""
        return self._control.planned

    @property
    def observation(self) -> Observation:
        """Observation that a policy plans from."""
        return self._control.observe(*self._counts())

    def _counts(self) -> tuple[int, int, int]:
        """Tokens drafted here and judged, committed, and to come at most."""
        committed = self._text.committed
        return self.counters.judged, committed, self._text.limit - committed

    def draft_request(self) -> DraftRequest | None:
        """Request for the next draft, or None when enough is drafted for now. Ask again after every call."""
        return self._wanted

    @property
    def committed_length(self) -> int:
        """Number of committed tokens."""
        return self._text.committed

    @property
    def pending(self) -> tuple[int, ...]:
        """Drafted tokens behind what is committed. A copy."""
        return self._text.chain.tokens(self._text.committed, self._text.tip)

    @property
    def fallback(self) -> int | None:
        """Tokens that the draft may write alone behind what is committed; None once anybody has answered."""
        return self._sender.fallback

    @property
    def stopped_alone(self) -> StoppedAlone:
        """Why the draft writes no more alone; empty while it may, or need not."""
        return self._sender.stopped_alone

    @property
    def silence(self) -> Silence:
        """Since when nobody speaks to it."""
        return self._timers.silence

    @property
    def failure(self) -> str:
        """Why the newest attempt went wrong; empty if none has since the last token."""
        return self._failures[-1] if self._failures else ""

    def next_tick(self) -> float | None:
        """When `tick` wants to be called, on the clock of `now`; None is never. Ask anew after every call."""
        return self._timers.next(self._state, online=self.online)

    # What can happen

    def start(self, now: float) -> list[Effect]:
        """Publish the first open. Call it once, with the verdict topic subscribed, unless a delivery was all."""
        if self._state is not EdgeState.NEW:
            raise LocalProtocolError("a session starts once")
        return self._event(EdgeEvent.START, now)

    def receive(self, message: Verdict | Delivery | Error, now: float) -> list[Effect]:
        """Take a message of this session.

        Raises:
            LocalProtocolError: it is of another session.
            UnexpectedEvent: this one was not started, and it is no delivery.
        """
        if message.session != self._request.session:
            raise LocalProtocolError(f"message of session {message.session} given to {self._request.session}")
        if isinstance(message, Verdict):
            self.counters.verdicts += 1
            return self._event(EdgeEvent.VERDICT, now, message)
        if isinstance(message, Delivery):
            self.counters.deliveries += 1
            return self._event(EdgeEvent.DELIVERY, now, message)
        return self._event(_ERRORS.get(message.code, EdgeEvent.REFUSED), now, message)

    def is_of(self, worker: str, message: Verdict | Delivery | Error) -> bool:
        """Whether a message may be one of this worker, which made it and which it may not name.

        A verdict that names nobody counts as one of the adopted worker, if it is of the attempt that this one holds.
        """
        peers = self._peers
        if message.worker is not None:
            return message.worker == worker
        return (peers.worker or peers.former) in {None, worker} or message.attempt != peers.current

    def drafted(self, start: int, digest: int, token: DraftToken, now: float) -> list[Effect]:
        """Take one token from the drafter, drafted after the prefix that (start, digest) names.

        A token with which the draft would not be accepted as the plan wants is not taken: what there is goes out, and
        nothing more is drafted until something new is committed.
        """
        return self._event(EdgeEvent.DRAFTED, now, start, digest, token)

    def draft_stopped(self, start: int, digest: int, now: float) -> list[Effect]:
        """The drafter will not go on at this tip until something new is committed: send what there is."""
        return self._event(EdgeEvent.NO_DRAFT, now, start, digest)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        while (event := self._timers.due(self._state, now, online=self.online)) is not None:
            effects += self._event(event, now)
        return effects

    def link_up(self, now: float) -> list[Effect]:
        """The broker is reachable, and the verdict topic is subscribed."""
        return self._event(EdgeEvent.LINK_UP, now)

    def link_down(self, now: float) -> list[Effect]:
        """The broker is unreachable: nothing is sent until `link_up`. A session begins linked."""
        return self._event(EdgeEvent.LINK_DOWN, now)

    def worker_gone(self, worker: str, now: float) -> list[Effect]:
        """A worker's will says gone, of the incarnation that we knew."""
        return self._event(EdgeEvent.GONE, now) if worker == self._peers.worker else []

    def worker_online(self, now: float) -> list[Effect]:
        """A worker of the version takes new sessions, which did not before or spoke over no connection since ours.

        Where the session has a worker it is this one.
        """
        return self._event(EdgeEvent.ONLINE, now)

    def no_worker(self, now: float) -> list[Effect]:
        """The broker knows nobody who subscribes to the version's open topic. The back-off runs on."""
        return self._event(EdgeEvent.NO_WORKER, now)

    def prefix_lost(self, now: float) -> list[Effect]:
        """The broker knows nobody who subscribes to the own topic of the worker that the first open went to."""
        return self._event(EdgeEvent.PREFIX_LOST, now)

    def fall_back(self, most: int, now: float) -> list[Effect]:
        """Nobody answers: the draft may write so many tokens behind what is committed until somebody does."""
        return self._event(EdgeEvent.FALL_BACK, now, most)

    def cancel(
        self,
        now: float,
        reason: FinishReason = FinishReason.CANCELLED,
        error: FlexSpecError | None = None,
    ) -> list[Effect]:
        """The user does not want it any more, or does not wait any longer."""
        return self._event(EdgeEvent.CANCEL, now, reason, error)

    # How it is done

    def _event(self, event: EdgeEvent, now: float, *what: object) -> list[Effect]:
        """Carry out the row of an event, and what follows from it.

        Raises:
            UnexpectedEvent: it has none in this state.
        """
        row = TABLE.expect(self._state, event, self.violations)
        row.handler(self, now, *what)
        if self._state not in row.next:
            TABLE.check(row, self._state)
        return self._settle(now)

    def _settle(self, now: float) -> list[Effect]:
        """After every event: send what is ready, and note who waits for what."""
        if self._state is EdgeState.ACTIVE:
            if not self._quiet:
                if self.online:
                    self._pump(now)
                self._expecting = self._sender.expecting
            if not (self._quiet and self._expecting):
                self._timers.expect(now, expecting=self._expecting)
        self._quiet = False
        self._want(now)
        out, self._out = self._out, []
        return out

    def _want(self, now: float) -> None:
        """Note what to draft: nothing while K drafted tokens wait to be sent, or more would be of no use."""
        text, before, self._wanted = self._text, self._wanted, None
        if self._state not in _LIVE or not self._sender.drafting:
            return
        plan = self._plan or self.plan
        count = self._sender.wanted(plan)
        if count <= 0:
            return
        if before is None:
            self._wanted_since = now
        request, prompt = self._request, self._request.prompt
        self._wanted = DraftRequest(
            request.session,
            text.chain.view(prompt, text.tip),
            request.identity,
            len(prompt) + text.committed,
            len(prompt),
            text.tip,
            text.digest,
            count,
            text.pending.joint_acceptance,
            plan.confidence_threshold,
            model_only=bool(self.fallback),
        )

    def _pump(self, now: float) -> None:
        """Send every batch that is due, then look-ahead credit if the worker may be short of it.

        Verdicts of pure look-ahead echo nothing. So where the plan wants to know the round trip, credit asks for it.
        """
        sender = self._sender
        while True:
            plan = self._plan or self.plan
            batch = sender.batch(plan, now)
            if batch is None:
                break
            self.counters.batches += 1
            self._send(batch, now)
        ask = plan.trip_age is not None and sender.silent and self._control.wants_trip(plan.trip_age, now)
        credit = sender.credit(plan, now, ask=ask)
        if credit is not None:
            self.counters.acks += 1
            self._send(credit, now)

    def _send(self, send: Send, now: float) -> None:
        self._plan = None
        self._timers.sent(now)
        self._out.append(send)

    def _poll(self, now: float) -> None:
        self.counters.polls += 1
        self._send(self._sender.poll(self.plan, now), now)

    def _close(self, worker: str, attempt: int, reason: CloseReason) -> None:
        self.counters.closes += 1
        self._out.append(self._sender.close(worker, attempt, reason))

    def _open(self, now: float, *, silent: bool = False) -> None:
        """Publish the next attempt; the first one to the worker that knows the prompt's start, if there is one.

        Brokers hand opens to the workers in turn. So where a worker is silent that may get them still, two attempts go
        out at once: they reach two workers.
        """
        counters, plan = self.counters, self.plan
        twice = silent and not self.nobody and self._others(None)
        expiry = self._timers.next_open(now)
        self._plan = None
        for _ in range(1 + twice):
            attempt = self._peers.opens()
            self._named = attempt == 1 and self._request.reuse is not None
            counters.named += self._named
            counters.opens += 1
            counters.reopens += attempt > 1
            counters.batches += 1
            self._out.append(self._sender.open(plan, attempt, now, expiry, named=self._named))

    def _resume(self, worker: str, now: float) -> None:
        """Tell a worker, whose own key is known now, what the open that it answered did not say of the text."""
        attempt, plan = self._peers.resumes(), self.plan
        self._named, self._plan = False, None
        self.counters.opens += 1
        self.counters.batches += 1
        self._out.append(self._sender.open(plan, attempt, now, 2 * self._rtt.timeout, to=worker))

    def _start(self, now: float) -> None:
        self._state = EdgeState.OPENING
        reuse = self._request.reuse
        self._control.begin(None if reuse is None else reuse.worker, now)
        self._timers.reopening()
        self._timers.progressed(now)
        if self._text.reason is not None:
            self._finish(self._text.reason)
        elif self.online:
            self._open(now)

    def _drafted(self, now: float, start: int, digest: int, token: DraftToken) -> None:
        text, counters = self._text, self.counters
        wanted, self._wanted = self._wanted, None
        if token.origin == "model" and wanted is not None:  # one that comes too late tells the time as well
            self._control.drafted(now - self._wanted_since, now)
        if text.capped or start != text.tip or digest != text.digest:
            counters.stale += 1
            self._quiet = True
            return
        if self._sender.take(token, self._plan or self.plan):
            counters.drafted += 1
            self._quiet = wanted is not None and wanted.most > 1 and not text.capped
        else:
            counters.withheld += 1
            self._control.withheld(self._sender.drafted, token.confidence, now)

    def _no_draft(self, now: float, start: int, digest: int) -> None:  # noqa: ARG002  the table's signature
        self._wanted = None
        if (start, digest) == (self._text.tip, self._text.digest):
            self._sender.stop()

    def _fall_back(self, now: float, most: int) -> None:  # noqa: ARG002  the table's signature
        self._sender.fall_back(most)

    def _verdict(self, now: float, verdict: Verdict) -> None:
        self._timers.heard(now)
        self._sender.fallback = None
        self.nobody = False
        may = self._sender.lets_draft
        self._control.echoed(verdict, now)
        speaker = self._peers.speaker(verdict)
        if speaker is not None:
            self._accept(speaker, verdict, now)
        mine = self._peers.spoke(verdict)
        agreement = self._text.judge(verdict)
        added = self._text.commit(verdict) if agreement is Agreement.AGREED else None
        self._control.took(verdict, self._measured(added), now, mine=mine, may=may)
        if added is not None:
            self._commit(verdict, added, now, mine=mine)
        elif agreement is Agreement.EARLY:
            self.counters.early += 1
            if mine:
                self._timers.answered(progress=False)
                self._ask(now)
        else:
            self.counters.diverged += 1
            if mine:
                self._fail_attempt("the worker's text keeps diverging from ours", now)

    def _measured(self, added: Committed | None) -> Added:
        """An addition to the text as the estimators take it, before the window moves."""
        if added is None:
            return Added()
        batches = self._sender.batches(added.start, added.start + len(added.met))
        return Added(len(added.tokens), added.rolled_back and added.met[-1].origin != "grammar", batches)

    def _accept(self, worker: str, verdict: Verdict, now: float) -> None:
        peers = self._peers
        peers.met(worker, verdict.attempt)
        news = verdict.start + len(verdict.tokens) > self._text.committed
        if peers.adopts(worker, verdict, news=news):
            for other, attempt in peers.adopt(worker, verdict.attempt):
                self._close(other, attempt, CloseReason.ELSEWHERE)
            self._sender.adopted(worker, verdict.attempt, newest=verdict.attempt == peers.attempt)
            self._state = EdgeState.ACTIVE
            self._asked = False
            self._timers.adopted(None if verdict.worker is None else verdict.lease, now)
            self.delivers = self.delivers if verdict.worker is None else verdict.delivers
            self._control.adopted(worker, now)
            if self._request.keyed and verdict.start + len(verdict.tokens) < self._text.committed:
                self._resume(worker, now)
        elif peers.worker is not None and worker != peers.worker:
            self._close(worker, verdict.attempt, CloseReason.ELSEWHERE)

    def _commit(self, verdict: Verdict, added: Committed, now: float, *, mine: bool) -> None:
        end = verdict.start + len(verdict.tokens)
        if mine:
            self._sender.holds(min(end, self._text.committed))
            self._timers.answered(progress=bool(added.tokens))
            if verdict.queue and not verdict.tokens:
                self._timers.waits_its_turn(now)
        if added.tokens:
            ours = len(added.met) - added.rolled_back
            several = (
                self._sender.lets_draft and len(added.tokens) > ours + verdict.drafted + verdict.forced + 1
            )
            self._out.append(Commit(added.start, added.tokens, added.origins(told=not several)))
            self._progress(now, added)
        if added.reason is not None:
            self._finish(added.reason)
        elif mine and verdict.fin in (Fin.EOS, Fin.LENGTH) and end == self._text.committed:
            self.counters.diverged += 1
            self._fail_attempt(
                f"the worker says that the text ends ({verdict.fin.name.lower()}); it does not", now
            )
        elif mine and verdict.fin is Fin.GAP and end == self._sender.acked:
            self._ask(now)
        elif mine and not (verdict.tokens or verdict.queue) and self._timers.stuck(now):
            self._stalled(now)

    def _progress(self, now: float, added: Committed) -> None:
        counters = self.counters
        counters.rounds += 1
        counters.committed += len(added.tokens)
        judged = counters.judged
        accepted = counters.meets(added.met, wrong=added.rolled_back) + added.worker_right
        counters.worker_accepted += added.worker_right
        counters.worker_judged += added.worker_judged
        counters.forced += added.forced
        counters.drafts.met(counters.judged - judged + added.worker_judged + added.in_vain, accepted)
        self._timers.progressed(now)
        self._failures, self._undone = [], 0
        self._asked = False
        self._plan = None
        self._sender.progressed(rolled_back=added.rolled_back)

    def _ask(self, now: float) -> None:
        """Poll because of a hole; once, until something new is committed."""
        if not self._asked and self.online:
            self._asked = True
            self._poll(now)

    def _delivery(self, now: float, delivery: Delivery) -> None:
        """Commit an answer as a verdict from any worker: our own digest confirms it, or it is none of this text."""
        self._timers.heard(now)
        self._sender.fallback = None
        whole = Verdict(
            delivery.session, delivery.attempt, 0, 0, delivery.tokens, delivery.digest, delivery.fin, 0, 0
        )
        if self._text.judge(whole) is not Agreement.AGREED:
            self.counters.diverged += 1
            return
        self._peers.met(delivery.worker, delivery.attempt)
        text = self._text
        if text.reason is None and (added := text.commit(whole)).tokens:
            self._out.append(Commit(added.start, added.tokens, added.origins(told=False)))
            self._progress(now, added)
        if text.reason is not None:
            self._finish(text.reason)

    def _late_verdict(self, now: float, verdict: Verdict | Delivery) -> None:  # noqa: ARG002  the table's signature
        if self.online and verdict.worker is not None:
            self._close(verdict.worker, self._peers.attempt, CloseReason.DONE)
        else:
            self.counters.ignored += 1

    def _busy(self, now: float, error: Error) -> None:
        self._timers.heard(now)
        self.counters.busy += 1
        self.nobody = False
        if error.attempt != self._peers.attempt:
            return
        if self._named:  # others may have room
            self._open_in_full(now, error)
        else:
            self._timers.open_after(now, error.retry / 1000)

    def _open_in_full(self, now: float, error: Error) -> None:
        """The worker cannot use the name of a prefix: open with the whole prompt, at any worker."""
        self._timers.heard(now)
        if error.attempt == self._peers.attempt and self._named:
            self.counters.misses += 1
            self._open_again(now)
        else:
            self.counters.ignored += 1

    def _unknown(self, now: float, error: Error) -> None:
        self._timers.heard(now)
        self.counters.unknown += 1
        if (error.worker, error.attempt) == (self._peers.worker, self._peers.current):
            self._undone += 1
            self._reopen(now, raise_fence=True, hold_back=self._undone > 1)

    def _internal(self, now: float, error: Error) -> None:
        self._timers.heard(now)
        if self._concerns_us(error):
            self._fail_attempt(f"worker {error.worker} failed: {error.detail or 'internal error'}", now)

    def _refused(self, now: float, error: Error) -> None:
        self._timers.heard(now)
        if self._concerns_us(error):
            self._finish(FinishReason.FAILED, failures.refused(error))
        else:
            self.counters.ignored += 1

    def _concerns_us(self, error: Error) -> bool:
        if self._peers.worker is None:
            return error.attempt == self._peers.attempt
        return (error.worker, error.attempt) == (self._peers.worker, self._peers.current)

    def _ignore(self, now: float, message: Error) -> None:  # noqa: ARG002  the table's signature
        self.counters.ignored += 1

    def _nothing(self, now: float, *what: object) -> None:
        """Neither the text nor anybody who waits for it is concerned."""

    def _fail_attempt(self, why: str, now: float) -> None:
        """This attempt is no good. Another may be, unless it keeps happening."""
        self._failures.append(why)
        if len(self._failures) > _MAX_FAILURES:
            self._finish(FinishReason.FAILED, failures.repeated(why))
        else:
            self._reopen(now, raise_fence=True, hold_back=len(self._failures) > 1)

    def _reopen(self, now: float, *, raise_fence: bool, hold_back: bool = False, stuck: bool = False) -> None:
        self._peers.leave(raise_fence=raise_fence, stuck=stuck)
        self._state = EdgeState.OPENING
        self._timers.reopening()
        self._timers.delay_open(now, max(len(self._failures), self._undone) if hold_back else 0)
        if self.online and not hold_back:
            self._open(now, silent=not raise_fence)

    def _open_due(self, now: float) -> None:
        self._peers.stuck = False  # nobody else has answered
        self._open_again(now, silent=self._timers.unanswered)

    def _open_again(self, now: float, *, silent: bool = False) -> None:
        if self.online:
            self._open(now, silent=silent)

    def _silent(self, now: float) -> None:
        if self._timers.exhausted:
            self._reopen(now, raise_fence=False)
        else:
            self._poll(now)
            self._timers.polled(now, elsewhere=self._others(self._peers.worker))

    def _stalled(self, now: float) -> None:
        self._reopen(now, raise_fence=False, stuck=True)

    def _gone(self, now: float) -> None:
        if self.online:
            self._poll(now)
            self._timers.polled(now, elsewhere=self._others(self._peers.worker), gone=True)

    def _worker_online(self, now: float) -> None:
        self._timers.wake(now, nobody=self.nobody)

    def _holder_online(self, now: float) -> None:
        if self.online and self._timers.unheard:
            self._poll(now)

    def _no_worker(self, now: float) -> None:  # noqa: ARG002  the table's signature
        self.nobody = True

    def _prefix_lost(self, now: float) -> None:
        if self._named:
            self.counters.misses += 1
            self._open_again(now)

    def _link_up(self, now: float) -> None:
        self.online = True
        self._timers.linked(now)
        if self._state is EdgeState.ACTIVE:
            self._poll(now)

    def _link_down(self, now: float) -> None:  # noqa: ARG002  the table's signature
        self.online = False

    def _cancel(self, now: float, reason: FinishReason, error: FlexSpecError | None) -> None:  # noqa: ARG002
        self._finish(reason, error)

    def _finish(self, reason: FinishReason, error: FlexSpecError | None = None) -> None:
        self._state = EdgeState.DONE
        self.finished = reason
        self._control.ended(*self._counts())
        holder = self._peers.worker
        if holder is not None and reason is not FinishReason.FAILED:
            acked = self._text.chain.tokens(0, self._sender.acked)
            grammar = self._request.identity.grammar
            self.written = Written(holder, self._request.prompt + acked, grammar)
        for worker in self._peers.forget_all():
            if self.online or reason is not FinishReason.FAILED:  # it may be asked for again
                self._close(worker, self._peers.attempt, _CLOSE_REASONS.get(reason, CloseReason.DONE))
        self._out.append(Finish(reason, error))

    ROWS: ClassVar[Rows[EdgeState, EdgeEvent]] = (
        ((_NEW,), (EdgeEvent.START,), _start, (_OPENING, _DONE),
         "linked", "open, with the draft if there is any; a resumed text that has ended finishes"),
        ((_OPENING,), (EdgeEvent.VERDICT,), _verdict, _BEGUN,
         "accept at or above the fencing token, or a word of the worker left for its silence; new tokens; diverged",
         "adopt the worker, close all others; commit, finish where the text ends; ignore"),
        ((_ACTIVE,), (EdgeEvent.VERDICT,), _verdict, _BEGUN,
         "new tokens; a gap, or a start beyond `have`; diverged, or stuck; accept of another worker",
         "commit, send what is ready, finish where the text ends; poll; open again; close that one"),
        ((_NEW,), (EdgeEvent.DELIVERY,), _delivery, (_NEW, _DONE), "", "as below, before there is an open"),
        (_LIVE, (EdgeEvent.DELIVERY,), _delivery, _BEGUN,
         "new tokens; diverged", "commit, finish where the text ends; ignore"),
        ((_DONE,), (EdgeEvent.VERDICT, EdgeEvent.DELIVERY), _late_verdict, (), "names its worker", "close that worker"),
        ((_OPENING,), (EdgeEvent.BUSY,), _busy, (),
         "newest attempt; the open named a prefix", "open after the worker's retry time; open in full"),
        ((_OPENING,), (EdgeEvent.NEED_PREFIX,), _open_in_full, (),
         "newest attempt, and it named a prefix", "open in full, at any worker"),
        ((_ACTIVE,), (EdgeEvent.UNKNOWN,), _unknown, _LIVE,
         "adopted worker and attempt", "open again with a new fencing token; later ones in a row spaced out"),
        ((_OPENING,), (EdgeEvent.INTERNAL,), _internal, (_OPENING, _DONE),
         "newest attempt", "open again with a new fencing token; fail after 5 in a row"),
        ((_ACTIVE,), (EdgeEvent.INTERNAL,), _internal, _BEGUN,
         "adopted worker and attempt", "open again with a new fencing token; fail after 5 in a row"),
        ((_OPENING,), (EdgeEvent.REFUSED,), _refused, (_OPENING, _DONE), "newest attempt", "fail"),
        ((_ACTIVE,), (EdgeEvent.REFUSED,), _refused, (_ACTIVE, _DONE), "adopted worker and attempt", "fail"),
        ((_OPENING,), (EdgeEvent.UNKNOWN,), _ignore, (), "", "count"),
        ((_ACTIVE,), (EdgeEvent.BUSY,), _ignore, (), "", "count"),
        ((_ACTIVE,), (EdgeEvent.NEED_PREFIX,), _ignore, (), "", "count"),
        ((_DONE,), _ERROR_EVENTS, _ignore, (), "", "count"),
        (_LIVE, (EdgeEvent.DRAFTED,), _drafted, (),
         "at the tip, and above the threshold; below it", "append, send when a batch is full; send what there is"),
        (_LIVE, (EdgeEvent.NO_DRAFT,), _no_draft, (), "at the tip", "send what there is"),
        ((_OPENING,), (EdgeEvent.OPEN_DUE,), _open_due, (), "linked", "open, with back-off"),
        ((_ACTIVE,), (EdgeEvent.SILENT,), _silent, _LIVE,
         "less polls unanswered than 2, or 1 if there are other workers; else", "poll; open again, same fencing token"),
        ((_ACTIVE,), (EdgeEvent.STALLED,), _stalled, (_OPENING,), "", "open again, same fencing token"),
        (_LIVE, (EdgeEvent.FALL_BACK,), _fall_back, (),
         "", "draft on beyond the plan until somebody answers; then send it at once"),
        ((_ACTIVE,), (EdgeEvent.LEASE_DUE,), _poll, (), "", "poll"),
        ((_ACTIVE,), (EdgeEvent.GONE,), _gone, (), "linked", "poll; the next silence opens again"),
        (_LIVE, (EdgeEvent.NO_WORKER,), _no_worker, (), "", "remember it for what the user is told"),
        ((_OPENING,), (EdgeEvent.ONLINE,), _worker_online, (),
         "nobody got the newest open; else", "open within a random part of 0.2 s; once that is overdue"),
        ((_ACTIVE,), (EdgeEvent.ONLINE,), _holder_online, (),
         "linked, and nothing came since the link did", "poll: what was sent until then met nobody"),
        ((_OPENING,), (EdgeEvent.PREFIX_LOST,), _prefix_lost, (),
         "the newest open named a prefix", "open in full, at any worker"),
        ((_ACTIVE,), (EdgeEvent.PREFIX_LOST,), _nothing, (), "", "nothing: a worker is adopted"),
        (_ALL, (EdgeEvent.LINK_UP,), _link_up, (),
         "opening; active", "open within a random part of 0.2 s, back-off afresh; poll"),
        (_ALL, (EdgeEvent.LINK_DOWN,), _link_down, (), "", "send nothing, timers wait"),
        ((_NEW, *_LIVE), (EdgeEvent.CANCEL,), _cancel, (_DONE,),
         "", "close all known workers; finish as whoever waits for it says"),
        ((_DONE,), _LATE_EVENTS, _nothing, (), "", "nothing"),
    )  # fmt: skip


TABLE: TransitionTable[EdgeState, EdgeEvent] = TransitionTable(EdgeSession.ROWS)
