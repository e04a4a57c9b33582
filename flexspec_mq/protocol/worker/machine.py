"""The worker's machine of all its sessions: opens, held batches, work, results, verdicts, leases.

No I/O and no clock: every call takes `now` in seconds and returns effects. The table at the end of
`WorkerMachine` says what a message does in which state. One edge's illegal message costs that edge a typed error
and nobody else anything.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

from flexspec_mq.protocol.effects import (
    Free,
    ReleaseToCache,
    Reply,
    SessionKey,
    Transfer,
    Truncate,
    WorkerEffect,
)
from flexspec_mq.protocol.worker.admission import Load
from flexspec_mq.protocol.worker.prefix_store import PrefixStore
from flexspec_mq.protocol.worker.session import Batch, WorkerSession
from flexspec_mq.protocol.worker.tombstones import Tombstones
from flexspec_mq.protocol.worker.types import WorkerConfig, WorkerCounters, WorkerState, WorkItem
from flexspec_mq.protocol.worker.validation import IllegalMessage, check
from schemas.messages import (
    MAX_MILLIS,
    Close,
    CloseReason,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Open,
    Poll,
)

__all__ = ["WorkItem", "WorkerConfig", "WorkerCounters", "WorkerMachine", "WorkerState"]


Handler = Callable[["WorkerMachine", SessionKey, Any, float], None]


class WorkerMachine:
    """All sessions of one worker.

    Args:
        config: what the worker is and how much it takes on.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._sessions: dict[SessionKey, WorkerSession] = {}
        self._tombs = Tombstones(config.tombstones, config.tombstone_life)
        self._load = Load(config)
        self._shelf = PrefixStore(config)
        self._draining = False
        self._stepped_at = -inf
        self._longest = 0.0
        self._out: list[WorkerEffect] = []
        self.counters = WorkerCounters()

    def __len__(self) -> int:
        """Live sessions; finished ones that are kept for late questions do not count."""
        return sum(session.ended is Fin.NONE for session in self._sessions.values())

    @property
    def draining(self) -> bool:
        """Whether new sessions are refused; drained when `len` is 0 too."""
        return self._draining

    @property
    def kept(self) -> int:
        """Sessions kept, finished ones included."""
        return len(self._sessions)

    @property
    def shelved(self) -> int:
        """Texts of sessions that are over, kept for their edges."""
        return len(self._shelf)

    def state(self, edge: str, session: int, now: float) -> WorkerState:
        """Where a session stands here."""
        found = self._sessions.get((edge, session))
        if found is not None:
            return WorkerState.LIVE if found.ended is Fin.NONE else WorkerState.FINISHED
        tomb = self._tombs.closed_at((edge, session), now)
        return WorkerState.ABSENT if tomb is None else WorkerState.TOMB

    def receive(
        self, edge: str, message: Open | Draft | Poll | Close, now: float, qos: int = 0
    ) -> list[WorkerEffect]:
        """Take a message from `edge`, which must come from the topic.

        Args:
            edge: MQTT user name of the device.
            message: decoded and valid by its schema.
            now: seconds.
            qos: with which it came; answers go out with the same.
        """
        key = (edge, message.session)
        handler = self._TABLE[self.state(edge, message.session, now), type(message)]
        try:
            if isinstance(message, Open):
                self._take_open(handler, key, message, now)
            else:
                check(message, self._config)
                handler(self, key, message, now)
        except IllegalMessage as error:
            self.counters.rejected += 1
            self._error(key, message.attempt, error.code, detail=error.message)
        session = self._sessions.get(key)
        if session is not None:
            session.qos = qos
            self._note_ready(session, now)
        out = self._flush()
        return [Reply(e.edge, e.message, qos) if isinstance(e, Reply) else e for e in out]

    def has_work(self) -> bool:
        """Whether `take_work` would give anything."""
        return any(session.ready_since is not None for session in self._sessions.values())

    def ready(self) -> set[SessionKey]:
        """Sessions of which `take_work` would give an item."""
        return {key for key, session in self._sessions.items() if session.ready_since is not None}

    def take_work(self, now: float, most: int) -> list[WorkItem]:
        """Up to `most` items, of as many sessions, those that have waited longest first.

        Call it before every step, also when the step only goes on with what it has: it shows that steps go on.
        """
        self._stepped_at = now
        ready = [session for session in self._sessions.values() if session.ready_since is not None]
        ready.sort(key=lambda session: session.ready_since or 0.0)
        return [session.next_item(now) for session in ready[:most]]

    def result(
        self, item: WorkItem, tokens: tuple[int, ...], queue_ms: int, compute_ms: int, now: float
    ) -> list[WorkerEffect]:
        """Take what the engine decided for an item.

        Args:
            item: from `take_work`.
            tokens: accepted drafts and the target's own last token.
            queue_ms: from `item.waiting_since` to the start of the forward.
            compute_ms: of the forward.
            now: seconds.

        Raises:
            LocalProtocolError: the tokens cannot be an answer to the item.
        """
        self._longest = max(self._longest, compute_ms / 1000)
        session = self._sessions.get(item.key)
        if session is None:
            self.counters.dropped += 1
            return [ReleaseToCache(item.key) if item.key in self._shelf else Free(item.key)]
        if session.flight is not item or not session.take_result(item, tokens):
            self.counters.dropped += 1
            self._out.append(Truncate(item.key, session.kept))
        else:
            self._answer(session, item, (queue_ms, compute_ms), now)
        self._note_ready(session, now)
        return self._flush()

    def failed(self, item: WorkItem, now: float) -> list[WorkerEffect]:
        """The engine could not compute an item: this session ends here, and its edge is told."""
        session = self._sessions.get(item.key)
        if session is not None and session.flight is item:
            self.counters.failed += 1
            self._end(session, session.attempt, now)
            self._error(item.key, session.attempt, ErrorCode.INTERNAL, qos=session.qos)
        return self._flush()

    def drain(self, now: float) -> list[WorkerEffect]:
        """Take no new sessions from now on. Those that are here go on to their end."""
        self._draining = True
        return self.tick(now)

    def release(self, now: float) -> list[WorkerEffect]:
        """Let go of every session; their edges are told, so that they open elsewhere at once. Then leave."""
        for session in list(self._sessions.values()):
            self._error(session.key, session.attempt, ErrorCode.UNKNOWN, qos=session.qos)
            self._end(session, session.attempt, now)
        return self._flush()

    def tick(self, now: float) -> list[WorkerEffect]:
        """End leases, send run-ahead tokens that have waited, forget texts that were kept long enough."""
        self._tombs.expire(now)
        self._out += [Free(key) for key in self._shelf.expire(now)]
        for session in list(self._sessions.values()):
            if session.expires <= now:
                self.counters.expired += 1
                self._end(session, session.attempt, now)
            elif session.flush_at is not None and session.flush_at <= now:
                self._reply(session, now)
        return self._flush()

    def next_tick(self) -> float | None:
        """When `tick` wants to be called; None is never. Ask again after every call."""
        at = min(
            (min(session.expires, session.flush_at or inf) for session in self._sessions.values()),
            default=inf,
        )
        at = min(at, self._shelf.expires or inf)
        return None if at == inf else at

    # How it is done

    def _flush(self) -> list[WorkerEffect]:
        out, self._out = self._out, []
        return out

    def _take_open(self, handler: Handler, key: SessionKey, message: Open, now: float) -> None:
        """Take an open with its whole prompt, or ask for it."""
        whole = self._shelf.whole(key, message, self._sessions.values())
        if whole is None:
            self.counters.need_prefix += 1
            self._error(key, message.attempt, ErrorCode.NEED_PREFIX)
            return
        check(whole.message, self._config)
        known = key in self._sessions
        handler(self, key, whole.message, now)
        if whole.source is None or whole.source == key or known or key not in self._sessions:
            return
        self.counters.inherited += 1
        self._shelf.take(whole.source)
        self._out.append(Transfer(whole.source, key))

    def _create(self, key: SessionKey, message: Open, now: float) -> None:
        live = [session for session in self._sessions.values() if session.ended is Fin.NONE]
        missing = self._load.places_missing(live, len(message.prompt) + len(message.committed) + 1)
        if self._draining or missing:
            drain = self._config.drain_retry
            wait = drain if self._draining else self._load.retry(key, live, missing, now)
            self.counters.busy += 1
            self._error(key, message.attempt, ErrorCode.BUSY, retry=round(1000 * wait))
            return
        self._load.opened(key)
        if len(self._sessions) >= 2 * self._config.capacity:
            oldest = next(s for s in self._sessions.values() if s.ended is not Fin.NONE)
            self._end(oldest, oldest.attempt, now)
        self._tombs.remove(key)
        self._shelf.take(key)
        self.counters.opened += 1
        session = WorkerSession(key, message, self._config, self.counters)
        session.opened_at = now
        session.merge(message, now)
        self._sessions[key] = session
        self._hello(session, now)

    def _revive(self, key: SessionKey, message: Open, now: float) -> None:
        closed_at = self._tombs.closed_at(key, now)
        if closed_at is not None and message.attempt <= closed_at:
            self.counters.ignored += 1
        else:
            self._create(key, message, now)

    def _reopen(self, key: SessionKey, message: Open, now: float) -> None:
        session = self._sessions[key]
        if not session.same_text(message):
            raise IllegalMessage(ErrorCode.PROTOCOL, "a session cannot be opened again for another text")
        if message.attempt < session.attempt:
            self.counters.ignored += 1
            return
        if message.attempt > session.attempt:
            self.counters.reopened += 1
            cut = session.merge(message, now)
            if cut is not None:
                self._out.append(Truncate(key, cut))
        self._hello(session, now)

    def _hello(self, session: WorkerSession, now: float) -> None:
        """Answer an open at once, before any forward."""
        self._renew(session, now)
        session.ask_again()
        self._reply(session, now)

    def _renew(self, session: WorkerSession, now: float) -> None:
        session.expires = now + self._config.lease

    def _reply(self, session: WorkerSession, now: float) -> None:
        verdict = session.verdict(now, times=self._waits(session, now))
        self._out.append(Reply(session.key[0], verdict, session.qos))

    def _waits(self, session: WorkerSession, now: float) -> tuple[int, int]:
        """Times for an answer without a forward: a queue above 0 says that work of the session waits its turn."""
        since = session.owes_since
        if since is None or now - self._stepped_at > max(self._config.step_bound, 4 * self._longest):
            return 0, 0
        return min(max(1, int(1000 * (now - since))), MAX_MILLIS), 0

    def _draft(self, key: SessionKey, message: Draft | Poll, now: float) -> None:
        session = self._sessions[key]
        if message.attempt > session.attempt:
            self._unknown(key, message, now)
            return
        self._renew(session, now)
        session.note(message)
        batch = Batch(
            message.start,
            message.digest,
            message.tokens,
            message.have,
            (message.attempt, message.seq),
            now,
        )
        if session.ended is not Fin.NONE:
            self.counters.ignored += 1
        kept = session.hold(batch)
        if isinstance(message, Poll):
            session.ask_again()
            self._reply(session, now)
        elif kept and session.gap_before(batch):
            self.counters.gaps += 1
            verdict = session.gap(now, self._waits(session, now))
            self._out.append(Reply(key[0], verdict, session.qos))

    def _unknown(self, key: SessionKey, message: Draft | Poll, now: float) -> None:  # noqa: ARG002  the table's signature
        self.counters.unknown += 1
        self._error(key, message.attempt, ErrorCode.UNKNOWN)

    def _close(self, key: SessionKey, message: Close, now: float) -> None:
        session = self._sessions[key]
        if message.attempt < session.attempt:
            self.counters.ignored += 1
            return
        self.counters.closed += 1
        keep = message.reason in (CloseReason.DONE, CloseReason.CANCELLED)
        self._end(session, message.attempt, now, keep=keep)

    def _remember(self, key: SessionKey, message: Close, now: float) -> None:
        self._tombs.put(key, message.attempt, now)

    def _end(self, session: WorkerSession, attempt: int, now: float, *, keep: bool = False) -> None:
        del self._sessions[session.key]
        if session.ended is Fin.NONE:
            self._load.ended(session, now)
        self._tombs.put(session.key, attempt, now)
        if keep and self._config.shelf:
            self._out.append(ReleaseToCache(session.key))
            self._out += [Free(key) for key in self._shelf.put(session, now)]
        else:
            self._out.append(Free(session.key))

    def _answer(self, session: WorkerSession, item: WorkItem, times: tuple[int, int], now: float) -> None:
        """Send what a result decided, at once or, in pure run-ahead, together with the next."""
        if session.ended is not Fin.NONE:
            self._load.ended(session, now)
            self._out.append(ReleaseToCache(session.key) if self._config.shelf else Free(session.key))
        elif not item.seq and now < session.verdict_at + self._config.stream_gap:
            if session.flush_at is None:
                session.flush_at = session.verdict_at + self._config.stream_gap
            return
        verdict = session.verdict(now, echo=item.seq, times=times)
        self._out.append(Reply(session.key[0], verdict, session.qos))

    def _error(
        self,
        key: SessionKey,
        attempt: int,
        code: ErrorCode,
        *,
        retry: int = 0,
        detail: str = "",
        qos: int = 0,
    ) -> None:
        error = Error(key[1], attempt, code, retry, self._config.worker, detail[:300])
        self._out.append(Reply(key[0], error, qos))

    def _note_ready(self, session: WorkerSession, now: float) -> None:
        if not session.ready():
            session.ready_since = None
        elif session.ready_since is None:
            session.ready_since = now

    # A handler gets exactly the message type that its row names.
    _TABLE: ClassVar[dict[tuple[WorkerState, type], Handler]] = {
        (WorkerState.ABSENT, Open): _create,
        (WorkerState.ABSENT, Draft): _unknown,
        (WorkerState.ABSENT, Poll): _unknown,
        (WorkerState.ABSENT, Close): _remember,
        (WorkerState.TOMB, Open): _revive,
        (WorkerState.TOMB, Draft): _unknown,
        (WorkerState.TOMB, Poll): _unknown,
        (WorkerState.TOMB, Close): _remember,
        (WorkerState.LIVE, Open): _reopen,
        (WorkerState.LIVE, Draft): _draft,
        (WorkerState.LIVE, Poll): _draft,
        (WorkerState.LIVE, Close): _close,
        (WorkerState.FINISHED, Open): _reopen,
        (WorkerState.FINISHED, Draft): _draft,
        (WorkerState.FINISHED, Poll): _draft,
        (WorkerState.FINISHED, Close): _close,
    }
