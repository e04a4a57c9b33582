"""The edge's machine of one session: opens, adopts a worker, sends drafts, commits verdicts, finishes.

No I/O and no clock: every call takes `now` in seconds and returns effects. The three tables at the end of
`EdgeSession` say what happens in which state; being offline is a flag beside the state, under which nothing
is sent and timers wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from flexspec_mq.controller.plan import Observation, Plan, Policy
from flexspec_mq.errors import FlexSpecError, LocalProtocolError, RemoteProtocolError, WorkerError
from flexspec_mq.protocol.edge.sender import EdgeSender
from flexspec_mq.protocol.edge.text import Agreement
from flexspec_mq.protocol.edge.types import (
    DraftRequest,
    DraftToken,
    EdgeConfig,
    EdgeCounters,
    EdgeEvent,
    EdgeState,
    Reuse,
    SessionRequest,
    Written,
)
from flexspec_mq.protocol.effects import Commit, Effect, Finish, FinishReason, Send
from schemas.messages import (
    Close,
    CloseReason,
    Error,
    ErrorCode,
    Fin,
    Verdict,
)

__all__ = [
    "DraftRequest",
    "DraftToken",
    "EdgeConfig",
    "EdgeCounters",
    "EdgeSession",
    "EdgeState",
    "Reuse",
    "SessionRequest",
    "Written",
    "close_unknown",
]

_CLOSE_REASONS = {
    FinishReason.CANCELLED: CloseReason.CANCELLED,
    FinishReason.DEADLINE: CloseReason.CANCELLED,
    FinishReason.FAILED: CloseReason.FAILED,
}


def close_unknown(message: Verdict) -> list[Effect]:
    """Close a session that this edge does not know (any more), if a worker says that it holds it."""
    if message.worker is None:
        return []
    close = Close(message.session, message.attempt, message.start, CloseReason.DONE)
    return [Send(message.worker, close, 0, None)]


class EdgeSession:
    """One generation at the edge.

    Args:
        request: what to generate.
        policy: asked for a plan before each batch.
        rng: jitter.
        config: timers and bounds.

    Raises:
        LocalProtocolError: the request can never be opened.
    """

    def __init__(
        self, request: SessionRequest, policy: Policy, rng: random.Random, config: EdgeConfig | None = None
    ) -> None:
        if not request.prompt or request.identity.limit < 1:
            raise LocalProtocolError("a session needs a prompt and a limit of at least 1")
        if request.reuse is not None and not 0 < request.reuse.count < len(request.prompt):
            raise LocalProtocolError("a prefix is shorter than the prompt, and not empty")
        self._request = request
        self._config = config or EdgeConfig()
        self._sender = EdgeSender(request, policy, rng, self._config)
        self.counters = self._sender.counters
        self._text = self._sender.text
        self._window = self._sender.window
        self._peers = self._sender.peers
        self._rtt = self._sender.rtt
        self._timers = self._sender.timers
        self._state = EdgeState.NEW
        self._online = True
        self._finished: FinishReason | None = None
        self._asked = False  # polled because of a hole, and nothing new since
        self._failures = 0  # of the text or the worker, in a row
        self._undone = 0  # adoptions that ended in "unknown", in a row
        self._nobody = False
        self._written: Written | None = None
        self._marked: tuple[int, int, float] | None = None

    # What can be read

    @property
    def state(self) -> EdgeState:
        """Where the session stands."""
        return self._state

    @property
    def committed(self) -> tuple[int, ...]:
        """All decided tokens, resumed ones included. A copy."""
        return self._text.committed

    @property
    def finished(self) -> FinishReason | None:
        """Why the text ended, or None while it goes on."""
        return self._finished

    @property
    def worker(self) -> str | None:
        """Adopted worker, whose status is worth watching now."""
        return self._peers.worker

    @property
    def nobody(self) -> bool:
        """Whether the broker says that nobody listens to opens of the version, and no worker has answered since."""
        return self._nobody

    @property
    def reuse(self) -> Reuse | None:
        """Where the first open went, if to one worker."""
        return self._request.reuse

    @property
    def written(self) -> Written | None:
        """Of a session that is over: what its worker holds, and another text could go on from."""
        return self._written

    @property
    def plan(self) -> Plan:
        """The plan for the next batch."""
        return self._sender.plan

    @property
    def observation(self) -> Observation:
        """What a policy plans from."""
        return self._sender.observation

    def draft_request(self) -> DraftRequest | None:
        """What to draft next, or None when enough is drafted for now. Ask again after every call."""
        if not self._wants_draft():
            return None
        text, sender = self._text, self._sender
        tip = len(text.chain)
        return DraftRequest(
            start=tip,
            digest=text.chain.digest(tip),
            context=text.context,
            committed=len(self._request.prompt) + text.have,
            most=sender.room,
            survival=text.branch.survival,
            stop=sender.plan.stop,
            price=sender.price,
        )

    def next_tick(self) -> float | None:
        """When `tick` wants to be called, on the clock of `now`; None is never. Ask anew after every call."""
        return self._timers.next(self._state, online=self._online)

    # What can happen

    def start(self, now: float) -> list[Effect]:
        """Publish the first open. Call it once, with the verdict topic subscribed."""
        if self._state is not EdgeState.NEW:
            raise LocalProtocolError("a session starts once")
        return self._event(EdgeEvent.START, now)

    def receive(self, message: Verdict | Error, now: float) -> list[Effect]:
        """Take a message of this session.

        Raises:
            LocalProtocolError: it is of another session, or this one was never started.
        """
        if message.session != self._request.session or self._state is EdgeState.NEW:
            raise LocalProtocolError(f"message of session {message.session} given to {self._request.session}")
        if isinstance(message, Verdict):
            self.counters.verdicts += 1
            self._VERDICTS[self._state](self, message, now)
        else:
            handler = self._ERRORS.get((self._state, message.code), EdgeSession._ignore_error)
            handler(self, message, now)
        return self._settle(now)

    def drafted(self, start: int, digest: int, guess: DraftToken, now: float) -> list[Effect]:
        """Take one token from the drafter, drafted after the prefix that (start, digest) names.

        One that would not survive as the plan wants is not taken: what there is goes out, and nothing more is
        drafted until something new is committed.
        """
        if self._state not in (EdgeState.OPENING, EdgeState.ACTIVE):
            return self._settle(now)
        if self._text.capped or not self._text.at_tip(start, digest):
            self.counters.stale += 1
            return self._settle(now)
        if guess.origin == "model":
            self._time_draft(start, digest, now)
        self._sender.stopped = not self._text.draft(guess, self._sender.plan.stop)
        return self._settle(now)

    def _time_draft(self, start: int, digest: int, now: float) -> None:
        """The first token is not timed: the draft read the prompt for it."""
        if self._marked is not None and self._marked[:2] == (start, digest) and self.counters.drafted:
            took = now - self._marked[2]
            before = self._sender.draft_time
            self._sender.draft_time = took if before is None else before + (took - before) / 8

    def draft_stopped(self, start: int, digest: int, now: float) -> list[Effect]:
        """The drafter will not go on at this tip until something new is committed: send what there is."""
        if self._text.at_tip(start, digest):
            self._sender.stopped = True
        return self._settle(now)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        while (event := self._timers.due(self._state, now, online=self._online)) is not None:
            effects += self._event(event, now)
        return effects

    def link_up(self, now: float) -> list[Effect]:
        """The broker is reachable, and the verdict topic is subscribed."""
        return self._event(EdgeEvent.LINK_UP, now)

    def link_down(self, now: float) -> list[Effect]:
        """The broker is unreachable: nothing is sent until `link_up`. A session begins linked."""
        return self._event(EdgeEvent.LINK_DOWN, now)

    def worker_gone(self, worker: str, now: float) -> list[Effect]:
        """A worker's will says gone, with the epoch of the life that we knew."""
        return self._event(EdgeEvent.GONE, now) if worker == self._peers.worker else []

    def no_worker(self, now: float) -> list[Effect]:
        """The broker knows nobody who subscribes to the version's open topic. The back-off runs on."""
        self._nobody = True
        return self._settle(now)

    def prefix_lost(self, now: float) -> list[Effect]:
        """The broker knows nobody who subscribes to the own topic of the worker that the first open went to."""
        if self._state is EdgeState.OPENING and self._sender.named:
            self.counters.misses += 1
            self._open_again(now)
        return self._settle(now)

    def cancel(self, now: float) -> list[Effect]:
        """The user does not want it any more."""
        return self._event(EdgeEvent.CANCEL, now)

    # How it is done

    def _event(self, event: EdgeEvent, now: float) -> list[Effect]:
        handler = self._EVENTS.get((self._state, event))
        if handler is not None:
            handler(self, now)
        return self._settle(now)

    def _flush(self) -> list[Effect]:
        out, self._sender.out = self._sender.out, []
        return out

    def _settle(self, now: float) -> list[Effect]:
        """After every event: send what is ready, and note who waits for what."""
        if self._state is EdgeState.ACTIVE:
            if self._online:
                self._sender.pump(now)
            self._timers.expect(now, expecting=self._sender.expecting)
        if not self._wants_draft():
            self._marked = None
        else:
            tip = len(self._text.chain)
            digest = self._text.chain.digest(tip)
            if self._marked is None or self._marked[:2] != (tip, digest):
                self._marked = (tip, digest, now)
        return self._flush()

    def _wants_draft(self) -> bool:
        return self._state in (EdgeState.OPENING, EdgeState.ACTIVE) and self._sender.wants_draft

    def _start(self, now: float) -> None:
        self._state = EdgeState.OPENING
        self._timers.reopening(now)
        self._timers.progressed(now)
        if self._text.reason is not None:
            self._finish(self._text.reason)
        elif self._online:
            self._sender.open(now)

    def _verdict(self, verdict: Verdict, now: float) -> None:
        self._timers.heard(now)
        self._nobody = False
        # An answer without tokens came at once: its `queue` tells of work that still waits.
        queue = verdict.queue if verdict.tokens else 0
        self._rtt.answered(verdict.echo, queue, verdict.compute, now)
        if verdict.worker is not None:
            self._hello(verdict.worker, verdict, now)
        mine = self._peers.spoke(verdict)
        agreement = self._text.judge(verdict)
        if agreement is Agreement.AGREED:
            self._commit(verdict, now, mine=mine)
            return
        if agreement is Agreement.EARLY:
            self.counters.early += 1
            if mine:
                self._timers.answered(progress=False)
                self._ask(now)
            return
        self.counters.diverged += 1
        if mine:
            self._fail_attempt("the worker's text keeps diverging from ours", now)

    def _hello(self, worker: str, verdict: Verdict, now: float) -> None:
        self._peers.met(worker, verdict.attempt)
        if self._peers.adopts(verdict):
            for other, attempt in self._peers.adopt(worker, verdict.attempt):
                self._sender.close(other, attempt, CloseReason.ELSEWHERE)
            self._sender.adopted(verdict.attempt)
            self._state = EdgeState.ACTIVE
            self._asked = False
            self._timers.adopted(verdict.lease, now)
        elif self._peers.worker is not None and worker != self._peers.worker:
            self._sender.close(worker, verdict.attempt, CloseReason.ELSEWHERE)

    def _commit(self, verdict: Verdict, now: float, *, mine: bool) -> None:
        end = verdict.start + len(verdict.tokens)
        added = self._text.commit(verdict)
        if mine:
            self._window.holds(min(end, self._text.have))
            self._timers.answered(progress=bool(added.tokens))
            if verdict.queue and not verdict.tokens:
                self._timers.waits_its_turn(now)
        if added.tokens:
            self._sender.out.append(Commit(added.start, added.tokens, added.origins))
            self._progress(now, len(added.tokens), rolled_back=added.rolled_back)
        if added.reason is not None:
            self._finish(added.reason)
        elif mine and verdict.fin in (Fin.EOS, Fin.LENGTH) and end == self._text.have:
            self.counters.diverged += 1
            self._fail_attempt(
                f"the worker says that the text ends ({verdict.fin.name.lower()}); it does not", now
            )
        elif mine and verdict.fin is Fin.GAP and end == self._window.held:
            self._ask(now)

    def _progress(self, now: float, tokens: int, *, rolled_back: bool) -> None:
        self.counters.rounds += 1
        self._sender.rate.got(tokens, now)
        self._timers.progressed(now)
        self._failures = self._undone = 0
        self._asked = False
        self._sender.progressed(rolled_back=rolled_back)

    def _ask(self, now: float) -> None:
        """Poll because of a hole; once, until something new is committed."""
        if not self._asked and self._online:
            self._asked = True
            self._sender.poll(now)

    def _late_verdict(self, verdict: Verdict, now: float) -> None:  # noqa: ARG002  the tables' signature
        if self._online and verdict.worker is not None:
            self._sender.close(verdict.worker, self._peers.attempt, CloseReason.DONE)
        else:
            self.counters.ignored += 1

    def _busy(self, error: Error, now: float) -> None:
        self._timers.heard(now)
        self.counters.busy += 1
        self._nobody = False
        if error.attempt != self._peers.attempt:
            return
        if self._sender.named:  # others may have room
            self._open_in_full(error, now)
        else:
            self._timers.open_after(now, error.retry / 1000)

    def _open_in_full(self, error: Error, now: float) -> None:
        """The worker cannot use the name of a prefix: open with the whole prompt, at any worker."""
        self._timers.heard(now)
        if error.attempt == self._peers.attempt and self._sender.named:
            self.counters.misses += 1
            self._open_again(now)
        else:
            self.counters.ignored += 1

    def _unknown(self, error: Error, now: float) -> None:
        self._timers.heard(now)
        self.counters.unknown += 1
        if (error.worker, error.attempt) != (self._peers.worker, self._peers.current):
            return
        self._undone += 1
        self._reopen(now, raise_floor=True, hold_back=self._undone > 1)

    def _internal(self, error: Error, now: float) -> None:
        self._timers.heard(now)
        if self._concerns_us(error):
            self._fail_attempt(f"worker {error.worker} failed: {error.detail or 'internal error'}", now)

    def _refused(self, error: Error, now: float) -> None:
        self._timers.heard(now)
        if not self._concerns_us(error):
            self.counters.ignored += 1
            return
        said = f"worker {error.worker} refused the session: {error.detail or error.code.name.lower()}"
        if error.code in (ErrorCode.FINGERPRINT, ErrorCode.CONTEXT):
            hint = (
                "edge and worker must use the same tokenizer; check the version"
                if error.code is ErrorCode.FINGERPRINT
                else "shorten the prompt or lower the limit"
            )
            self._fail(WorkerError(said, hint=hint))
        else:
            self._fail(RemoteProtocolError(said, hint="edge and worker may be of different releases"))

    def _concerns_us(self, error: Error) -> bool:
        if self._peers.worker is None:
            return error.attempt == self._peers.attempt
        return (error.worker, error.attempt) == (self._peers.worker, self._peers.current)

    def _ignore_error(self, error: Error, now: float) -> None:  # noqa: ARG002  the tables' signature
        self.counters.ignored += 1

    def _fail_attempt(self, why: str, now: float) -> None:
        """This attempt is no good. Another may be, unless it keeps happening."""
        self._failures += 1
        if self._failures > self._config.max_failures:
            self._fail(
                WorkerError(
                    why,
                    hint="look at the logs of the version's workers, and check that all of them run the same weights",
                )
            )
        else:
            self._reopen(now, raise_floor=True, hold_back=self._failures > 1)

    def _reopen(self, now: float, *, raise_floor: bool, hold_back: bool = False) -> None:
        self._peers.leave(raise_floor=raise_floor)
        self._state = EdgeState.OPENING
        self._timers.reopening(now)
        self._timers.delay_open(now, max(self._failures, self._undone) if hold_back else 0)
        if self._online and not hold_back:
            self._sender.open(now)

    def _open_again(self, now: float) -> None:
        if self._online:
            self._sender.open(now)

    def _keep_alive(self, now: float) -> None:
        self._sender.poll(now)

    def _silent(self, now: float) -> None:
        if self._timers.exhausted:
            self._reopen(now, raise_floor=False)
        else:
            self._sender.poll(now)
            self._timers.polled(now)

    def _stalled(self, now: float) -> None:
        self._reopen(now, raise_floor=True)

    def _gone(self, now: float) -> None:
        if self._online:
            self._sender.poll(now)
            self._timers.suspect(now)

    def _link_up(self, now: float) -> None:
        self._online = True
        self._timers.linked(now)
        if self._state is EdgeState.ACTIVE:
            self._sender.poll(now)

    def _link_down(self, now: float) -> None:  # noqa: ARG002  the tables' signature
        self._online = False

    def _hopeless(self, now: float) -> None:  # noqa: ARG002  the tables' signature
        version = self._request.version
        if self._nobody:
            error = WorkerError(f"no worker serves {version}", hint="start one, or ask for another version")
        elif self._timers.queued:
            error = WorkerError(
                f"the workers of {version} have too much to do: this text waited too long for its turn",
                hint="start more workers of this version, or ask again later",
            )
        else:
            error = WorkerError(
                f"no worker of {version} answered in time",
                hint="look at the workers' status and at the broker's access rules",
            )
        self._fail(error)

    def _cancel(self, now: float) -> None:  # noqa: ARG002  the tables' signature
        self._finish(FinishReason.CANCELLED)

    def _deadline(self, now: float) -> None:  # noqa: ARG002  the tables' signature
        self._finish(FinishReason.DEADLINE)

    def _fail(self, error: FlexSpecError) -> None:
        self._finish(FinishReason.FAILED, error)

    def _finish(self, reason: FinishReason, error: FlexSpecError | None = None) -> None:
        self._state = EdgeState.DONE
        self._finished = reason
        holder = self._peers.worker
        if holder is not None and reason is not FinishReason.FAILED:
            self._written = Written(
                holder, self._request.prompt + self._text.chain.tokens(0, self._window.held)
            )
        for worker in self._peers.forget_all():
            if self._online:
                self._sender.close(worker, self._peers.attempt, _CLOSE_REASONS.get(reason, CloseReason.DONE))
        self._sender.out.append(Finish(reason, error))

    _EVENTS: ClassVar[dict[tuple[EdgeState, EdgeEvent], Callable[[EdgeSession, float], None]]] = {
        (EdgeState.NEW, EdgeEvent.START): _start,
        (EdgeState.NEW, EdgeEvent.LINK_UP): _link_up,
        (EdgeState.NEW, EdgeEvent.LINK_DOWN): _link_down,
        (EdgeState.NEW, EdgeEvent.CANCEL): _cancel,
        (EdgeState.OPENING, EdgeEvent.OPEN_DUE): _open_again,
        (EdgeState.OPENING, EdgeEvent.LINK_UP): _link_up,
        (EdgeState.OPENING, EdgeEvent.LINK_DOWN): _link_down,
        (EdgeState.OPENING, EdgeEvent.HOPELESS): _hopeless,
        (EdgeState.OPENING, EdgeEvent.CANCEL): _cancel,
        (EdgeState.OPENING, EdgeEvent.DEADLINE): _deadline,
        (EdgeState.ACTIVE, EdgeEvent.SILENT): _silent,
        (EdgeState.ACTIVE, EdgeEvent.STALLED): _stalled,
        (EdgeState.ACTIVE, EdgeEvent.LEASE_DUE): _keep_alive,
        (EdgeState.ACTIVE, EdgeEvent.GONE): _gone,
        (EdgeState.ACTIVE, EdgeEvent.LINK_UP): _link_up,
        (EdgeState.ACTIVE, EdgeEvent.LINK_DOWN): _link_down,
        (EdgeState.ACTIVE, EdgeEvent.HOPELESS): _hopeless,
        (EdgeState.ACTIVE, EdgeEvent.CANCEL): _cancel,
        (EdgeState.ACTIVE, EdgeEvent.DEADLINE): _deadline,
        (EdgeState.DONE, EdgeEvent.LINK_UP): _link_up,
        (EdgeState.DONE, EdgeEvent.LINK_DOWN): _link_down,
    }
    _VERDICTS: ClassVar[dict[EdgeState, Callable[[EdgeSession, Verdict, float], None]]] = {
        EdgeState.OPENING: _verdict,
        EdgeState.ACTIVE: _verdict,
        EdgeState.DONE: _late_verdict,
    }
    _ERRORS: ClassVar[dict[tuple[EdgeState, ErrorCode], Callable[[EdgeSession, Error, float], None]]] = {
        (EdgeState.OPENING, ErrorCode.BUSY): _busy,
        (EdgeState.OPENING, ErrorCode.NEED_PREFIX): _open_in_full,
        (EdgeState.OPENING, ErrorCode.INTERNAL): _internal,
        (EdgeState.ACTIVE, ErrorCode.INTERNAL): _internal,
        (EdgeState.ACTIVE, ErrorCode.UNKNOWN): _unknown,
        (EdgeState.OPENING, ErrorCode.PROTOCOL): _refused,
        (EdgeState.OPENING, ErrorCode.FINGERPRINT): _refused,
        (EdgeState.OPENING, ErrorCode.CONTEXT): _refused,
        (EdgeState.OPENING, ErrorCode.MALFORMED): _refused,
        (EdgeState.ACTIVE, ErrorCode.PROTOCOL): _refused,
        (EdgeState.ACTIVE, ErrorCode.FINGERPRINT): _refused,
        (EdgeState.ACTIVE, ErrorCode.CONTEXT): _refused,
        (EdgeState.ACTIVE, ErrorCode.MALFORMED): _refused,
    }
