"""The worker's machine of all its sessions: opens, held batches, work, results, verdicts, leases.

No I/O and no clock: every call takes `now` in seconds and returns effects. `TABLE` at the end says what may happen to
a session in which state, and where it then stands. An edge's illegal message costs that edge a typed error and
nobody else anything.
"""

from collections import Counter
from collections.abc import Mapping
from math import inf
from typing import ClassVar

from flexspec_mq import waiting
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import FlexSpecError, GrammarError, ServerRefused
from flexspec_mq.protocol.effects import Deliver, Free, ReleaseToCache, Reply, SessionKey, WorkerEffect
from flexspec_mq.protocol.table import Rows, TransitionTable
from flexspec_mq.protocol.worker.admission import Admission
from flexspec_mq.protocol.worker.deliveries import DeliveryPlaces
from flexspec_mq.protocol.worker.prefix_store import PrefixStore
from flexspec_mq.protocol.worker.session import Batch, WorkerSession
from flexspec_mq.protocol.worker.turns import by_device, to_go
from flexspec_mq.protocol.worker.types import (
    ALL_ROWS,
    DraftRows,
    Full,
    WorkerConfig,
    WorkerCounters,
    WorkerEvent,
    WorkerState,
    WorkItem,
)
from flexspec_mq.protocol.worker.validation import IllegalMessage, check, check_open
from schemas.messages import MAX_MILLIS, Close, CloseReason, Draft, Error, ErrorCode, Fin, Open, Poll

_CLOSED, _CLOSED_TTL = 256, 60.0
"""Closed sessions that are remembered, the oldest forgotten first, and for how many seconds."""

_SHARED = 0.005
"""Seconds for which tokens decoded unasked, and answers to further polls, may share a verdict."""
_MOST_VERDICTS = 8
"""Verdicts that one message of an edge is answered by, where much was decided while it was away."""

_E, _S = WorkerEvent, WorkerState
_GONE, _HERE = (_S.ABSENT, _S.TOMB), (_S.LIVE, _S.FINISHED)
# Conditions and what is done, case by case.
_CREATE = ("room; full, draining or version not held; prefix not here", "create, accept; busy; need_prefix")
_REVIVE = ("at or below the closed attempt; above", "ignore; as if absent")
_REOPEN = ("lower attempt; the same; higher; another text", "ignore; accept; merge, accept; refuse")
_DRAFT = ("usable or early; stale or duplicate; after a gap", "hold; drop; report the gap")
_CLOSE = ("at or above the attempt; below", "free, or keep the text, no delivery; ignore")
_RESULT = ("of this chain; of another", "extend, verdict; drop")
_FAILED = ("the item under way; another", "free, internal error; ignore")
_EVENTS = {Draft: WorkerEvent.DRAFT, Poll: WorkerEvent.POLL, Close: WorkerEvent.CLOSE}


class WorkerMachine:
    """All sessions of one worker.

    Args:
        config: name and bounds of the worker.

    Attributes:
        deliveries: Places for answers that are delivered; to be read only.
        draining: true if new sessions are refused; drained when `len` is 0 too. To be read only.
        full: why and until when new sessions are refused.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._sessions: dict[SessionKey, WorkerSession] = {}
        self._closed_at = ExpiringMap[SessionKey, int](most=_CLOSED, ttl=_CLOSED_TTL)
        self._admission = Admission(config)
        self._prefixes = PrefixStore(config)
        self.deliveries = DeliveryPlaces(config)
        self._versions = dict.fromkeys(config.versions)
        self._retired: set[str] = set()
        self.draining = False
        self.full = Full()
        self._stepped_at = -inf
        self._longest = 0.0
        self._out: list[WorkerEffect] = []
        self.counters = WorkerCounters()
        self.violations = Counter[tuple[WorkerState, WorkerEvent]]()
        """Events that have no row in the state that they met."""

    def __len__(self) -> int:
        """Live sessions; finished ones that are kept for late questions do not count."""
        return self.live.total()

    @property
    def versions(self) -> list[str]:
        """Target versions that take new sessions."""
        return [version for version in self._versions if version not in self._retired]

    @property
    def live(self) -> Counter[str]:
        """Live sessions by target version."""
        return Counter(session.version for session in self._sessions.values() if session.ended is Fin.NONE)

    @property
    def sessions(self) -> Mapping[SessionKey, WorkerSession]:
        """All that are kept, finished ones included; to be read only."""
        return self._sessions

    @property
    def prefixes(self) -> int:
        """Texts of sessions that are over, kept for their edges."""
        return len(self._prefixes)

    def state(self, key: SessionKey, now: float) -> WorkerState:
        """Where a session stands here."""
        session = self._sessions.get(key)
        if session is not None:
            return WorkerState.LIVE if session.ended is Fin.NONE else WorkerState.FINISHED
        return WorkerState.ABSENT if self._closed_at.get(key, now) is None else WorkerState.TOMB

    def receive(
        self,
        edge: str,
        message: Open | Draft | Poll | Close,
        now: float,
        qos: int = 0,
        version: str | None = None,
    ) -> list[WorkerEffect]:
        """Take a message from `edge`, which must come from the topic.

        Args:
            edge: MQTT user name of the device.
            message: decoded and valid by its schema.
            now: seconds.
            qos: level with which it came; answers go out with the same.
            version: target version that the topic of an open names; None where it names none.
        """
        key = (edge, message.session)
        try:
            if isinstance(message, Open):
                self._take_open(key, message, version, now)
            else:
                check(message, self._config.facts.vocab_size)
                self._happen(_EVENTS[type(message)], key, now, message)
        except IllegalMessage as error:
            self.counters.rejected += 1
            self._error(key, message.attempt, error.code, detail=error.message)
        session = self._sessions.get(key)
        if session is not None:
            session.qos = qos
            self._note_ready(session, now)
        return [Reply(e.edge, e.message, qos) if isinstance(e, Reply) else e for e in self._flush()]

    def refuse(
        self, edge: str, session: int, attempt: int, code: ErrorCode, why: str, qos: int = 0
    ) -> list[WorkerEffect]:
        """Answer a message that was not read to its end; whatever is here of its session stays as it is."""
        self.counters.rejected += 1
        retry = round(1000 * waiting.BUSY[0]) if code is ErrorCode.BUSY else 0
        self._error((edge, session), attempt, code, retry=retry, detail=why, qos=qos)
        return self._flush()

    def ready(self) -> set[SessionKey]:
        """Sessions of which `take_work` would give an item."""
        return {key for key, session in self._sessions.items() if session.ready_since is not None}

    def take_work(self, now: float, most: int) -> list[WorkItem]:
        """Up to `most` items, of as many sessions: of each device the one that has waited longest, then the next.

        Call it before every step, also when the step only goes on with what it has: it shows that steps go on.
        """
        self._stepped_at = now
        ready = [session for session in self._sessions.values() if session.ready_since is not None]
        ready.sort(key=lambda session: session.ready_since or 0.0)
        turns = by_device(session.key for session in ready)[:most]
        return [self._sessions[key].next_item(now) for key in turns]

    def stepped(self, seconds: float) -> None:
        """Note how long a step took, whether it decided anything or read only: others may take four times that."""
        self._longest = max(0.98 * self._longest, seconds)

    def result(
        self,
        item: WorkItem,
        tokens: tuple[int, ...],
        queue_ms: int,
        compute_ms: int,
        now: float,
        rows: DraftRows = ALL_ROWS,
    ) -> list[WorkerEffect]:
        """Take what the engine decided for an item.

        Args:
            item: from `take_work`.
            tokens: accepted drafts and the target's own last token.
            queue_ms: from `item.waiting_since` to the start of the forward.
            compute_ms: time of the forward.
            now: seconds.
            rows: rows that the forward verified; the edge is told.

        Raises:
            LocalProtocolError: the tokens cannot be an answer to the item.
        """
        self._longest = max(self._longest, compute_ms / 1000)
        times = min(queue_ms, MAX_MILLIS), min(compute_ms, MAX_MILLIS)
        self._happen(WorkerEvent.RESULT, item.key, now, item, tokens, times, rows)
        return self._flush()

    def failed(self, item: WorkItem, now: float, error: FlexSpecError | None = None) -> list[WorkerEffect]:
        """The engine could not compute an item: this session ends here, and its edge is told.

        Args:
            item: from `take_work`.
            now: seconds.
            error: reason, as far as it is for its edge; that of a grammar is final, unless it says nothing.
        """
        self._happen(WorkerEvent.FAILED, item.key, now, item, error)
        return self._flush()

    def hold(self, version: str) -> None:
        """Take sessions of one more version from now on, or again of one that was retired."""
        self._versions.setdefault(version)
        self._retired.discard(version)

    def retire(self, version: str) -> list[WorkerEffect]:
        """Take no new sessions of a version, as if it were not held. Texts that have begun go on to their end.

        This is also for texts that began at another worker. After the last session the version is not held at all.
        Its kept texts are forgotten: when a version comes again under the same name, it may be another one.
        """
        if version in self._versions:
            self._retired.add(version)
            self._forget_if_over(version)
        return [Free(key) for key in self._prefixes.drop(version)]

    def sessions_of(self, version: str) -> int:
        """Sessions of a version, retired or not; finished ones count, as they may be opened again with less text."""
        return sum(session.version == version for session in self._sessions.values())

    def drain(self, now: float) -> list[WorkerEffect]:
        """Take no new sessions from now on. Sessions that are here go on to their end."""
        self.draining = True
        return self.tick(now)

    def resume(self) -> None:
        """Take new sessions again."""
        self.draining = False

    def release(self, now: float) -> list[WorkerEffect]:
        """Let go of every session; their edges are told, so that they open elsewhere at once. Then leave."""
        for key in list(self._sessions):
            self._happen(WorkerEvent.RELEASED, key, now)
        return self._flush()

    def tick(self, now: float) -> list[WorkerEffect]:
        """End leases, note who is silent, send look-ahead tokens that have waited, forget what was kept long enough."""
        self._closed_at.expire(now)
        self._out += [Free(key) for key in self._prefixes.expire(now)]
        self.deliveries.expire(now)
        for session in list(self._sessions.values()):
            if session.silent_at <= now:
                self._happen(WorkerEvent.SILENT, session.key, now)
            elif session.expires <= now:
                self.counters.expired += 1
                self._happen(WorkerEvent.EXPIRED, session.key, now)
            elif session.flush_at is not None and session.flush_at <= now:
                self._reply(session, now)
        return self._flush()

    def next_tick(self) -> float | None:
        """When `tick` wants to be called; None is never. Ask again after every call."""
        at = min(
            (min(one.expires, one.silent_at, one.flush_at or inf) for one in self._sessions.values()),
            default=inf,
        )
        at = min(at, self._prefixes.expires or inf, self.deliveries.expires)
        return None if at == inf else at

    def undelivered(self, key: SessionKey, now: float, *, again: bool) -> None:
        """The broker has not taken an answer; `again`: it may a moment later."""
        session = self._sessions.get(key)
        self.deliveries.leave(key)
        if session is not None and session.delivered and again:
            session.delivered, session.silent_at = False, now + waiting.ANSWER

    # How it is done

    def _flush(self) -> list[WorkerEffect]:
        out, self._out = self._out, []
        return out

    def _happen(self, event: WorkerEvent, key: SessionKey, now: float, *details: object) -> None:
        """Carry out what the table says, and hold it to where it says that this leads."""
        row = TABLE.expect(self.state(key, now), event, self.violations)
        row.handler(self, key, now, *details)
        TABLE.check(row, self.state(key, now))

    def _take_open(self, key: SessionKey, message: Open, version: str | None, now: float) -> None:
        """Take an open with its whole prompt, or ask for it."""
        named = 0 if message.prefix is None else message.prefix.count
        whole = self._prefixes.whole(key, message, version, self._sessions.values(), now)
        if whole is None:
            self.counters.need_prefix += 1
            self._error(key, message.attempt, ErrorCode.NEED_PREFIX)
            return
        message, version, transfer = whole
        known = key in self._sessions
        if version not in self._versions or (
            version in self._retired and not (known or message.committed or message.resumes)
        ):
            detail = f"version {version} is not held here"
            self._busy(key, message, waiting.BUSY[0], detail)
            return
        check_open(message, self._config.facts, self._config.room)
        self._happen(WorkerEvent.OPEN, key, now, message, version)
        if transfer is not None and not known and key in self._sessions:
            self.counters.inherited += 1
            self.counters.versions[version].known += named
            if transfer.shared is None:
                self._prefixes.take(transfer.source)
            self._out.append(transfer)

    def _forget_if_over(self, version: str) -> None:
        if version in self._retired and not self.sessions_of(version):
            self._retired.discard(version)
            del self._versions[version]
            self.counters.versions.pop(version, None)

    def _create(self, key: SessionKey, now: float, message: Open, version: str) -> None:
        if self.draining:
            self._busy(key, message, waiting.BUSY[0])
            return
        if now < self.full.until:
            self._busy(key, message, self.full.until - now, self.full.why)
            return
        live = [session for session in self._sessions.values() if session.ended is Fin.NONE]
        tokens = len(message.prompt) + len(message.committed) + message.resumes + 1
        why = self._admission.over_quota(key[0], live, tokens)
        missing = 1 if why else self._places_missing(key[0], live, tokens, now)
        if missing:
            self.counters.over_quota += bool(why)
            self._busy(key, message, self._admission.retry(key, live, missing, now), why)
            return
        self._admission.opened(key)
        if len(self._sessions) >= 2 * self._config.capacity:
            over = [session.key for session in self._sessions.values() if session.ended is not Fin.NONE]
            self._happen(WorkerEvent.DISPLACED, to_go(over), now)
        self._closed_at.pop(key)
        self._prefixes.take(key)
        self.counters.opened += 1
        self.counters.versions[version].prompt += len(message.prompt)
        session = WorkerSession(key, message, version, self._config, self.counters)
        session.opened_at = now
        self._merge(session, message, now)
        self._sessions[key] = session
        self._accept(session, now)

    def _places_missing(self, edge: str, live: list[WorkerSession], tokens: int, now: float) -> int:
        """How many sessions must end before a device's new one can be taken; sees to it that others make room."""
        missing = self._admission.places_missing(live, tokens)
        going = self._admission.make_room(edge, live, tokens, now) if missing else []
        for session in going:
            self._happen(WorkerEvent.YIELDED, session.key, now)
        return 0 if going else missing

    def _busy(self, key: SessionKey, message: Open, wait: float, detail: str = "") -> None:
        self.counters.busy += 1
        self._error(key, message.attempt, ErrorCode.BUSY, retry=round(1000 * wait), detail=detail)

    def _revive(self, key: SessionKey, now: float, message: Open, version: str) -> None:
        closed_at = self._closed_at.get(key, now)
        if closed_at is not None and message.attempt <= closed_at:
            self.counters.ignored += 1
        else:
            self._create(key, now, message, version)

    def _reopen(self, key: SessionKey, now: float, message: Open, version: str) -> None:
        session = self._sessions[key]
        if not session.same_text(message, version):
            raise IllegalMessage(ErrorCode.PROTOCOL, "a session cannot be opened again for another text")
        if message.attempt < session.attempt:
            self.counters.ignored += 1
            return
        if message.attempt > session.attempt:
            self.counters.reopened += 1
            self._merge(session, message, now)
        self._accept(session, now)

    def _merge(self, session: WorkerSession, message: Open, now: float) -> None:
        session.merge(message, now)
        session.asked = message.deliver > 0
        session.deliver = self.deliveries.grant(session.key, message)
        self.counters.undeliverable += session.asked and not session.deliver

    def _accept(self, session: WorkerSession, now: float) -> None:
        """Answer an open at once, before any forward."""
        self._renew(session, now)
        session.ask_again()
        self._reply(session, now)

    def _renew(self, session: WorkerSession, now: float) -> None:
        """The edge is there, or has a moment to show that it is."""
        session.expires = now + self._config.lease
        session.away_since = inf
        owed = session.deliver and not session.delivered
        session.silent_at = now + waiting.ANSWER if owed else inf

    def _reply(self, session: WorkerSession, now: float) -> None:
        """Send all that was decided since the last verdict: several, where the edge was away meanwhile."""
        for _ in range(_MOST_VERDICTS):
            verdict = session.verdict(now, times=self._waits(session, now))
            self._out.append(Reply(session.key[0], verdict, session.qos))
            if session.sent == len(session.chain):
                return

    def _silent(self, key: SessionKey, now: float) -> None:
        """The edge is away. Its text is written on to the end, whatever the lease, and then left at the broker."""
        session = self._sessions[key]
        session.silent_at = inf
        if session.ended is not Fin.NONE:
            self._deliver(session, now)
            return
        session.away_since, session.expires = now, inf
        self._note_ready(session, now)

    def _deliver(self, session: WorkerSession, now: float) -> None:
        self.counters.delivered += 1
        session.delivered, session.silent_at = True, inf
        self.deliveries.kept(session.key, len(session.chain), now + session.deliver)
        self._out.append(Deliver(session.key, session.delivery(), session.deliver))

    def _withdraw(self, key: SessionKey, reason: CloseReason, *, left: bool) -> None:
        """The edge needs no delivery any more; `left`: one may be there, by this worker or an earlier one."""
        kept = self.deliveries.leave(key)
        if kept or (left and reason is not CloseReason.ELSEWHERE):
            self._out.append(Deliver(key, None))

    def _waits(self, session: WorkerSession, now: float) -> tuple[int, int]:
        """Times for an answer without a forward: a queue above 0 says that work of the session waits its turn."""
        since = session.owes_since
        if since is None or now - self._stepped_at > max(1.25 * waiting.ANSWER, 4 * self._longest):
            return 0, 0
        return min(max(1, int(1000 * (now - since))), MAX_MILLIS), 0

    def _draft(self, key: SessionKey, now: float, message: Draft | Poll) -> None:
        session = self._sessions[key]
        if message.attempt > session.attempt:
            self._unknown(key, now, message)
            return
        away = session.away
        self._renew(session, now)
        session.note(message)
        order = (message.attempt, message.seq)
        batch = Batch(message.start, message.digest, message.tokens, message.have, order, now)
        if session.ended is not Fin.NONE:
            self.counters.ignored += 1
        kept = session.hold(batch)
        if isinstance(message, Poll):
            self._note_ready(session, now)
            session.ask_again()
            self._answer_poll(session, now)
        elif kept and session.gap_before(batch):
            self.counters.gaps += 1
            verdict = session.gap(now, self._waits(session, now))
            self._out.append(Reply(key[0], verdict, session.qos))
        elif away and session.sent < len(session.chain):
            self._reply(session, now)

    def _answer_poll(self, session: WorkerSession, now: float) -> None:
        """Answer at once, but one that follows on another one's heels a moment later, together with the next."""
        due = session.polled_at + _SHARED
        if now >= due:
            session.polled_at = now
            self._reply(session, now)
        elif session.flush_at is None or session.flush_at > due:
            session.flush_at = session.polled_at = due

    def _unknown(self, key: SessionKey, now: float, message: Draft | Poll) -> None:  # noqa: ARG002  the table's signature
        self.counters.unknown += 1
        self._error(key, message.attempt, ErrorCode.UNKNOWN)

    def _close(self, key: SessionKey, now: float, message: Close) -> None:
        session = self._sessions[key]
        if message.attempt < session.attempt:
            self.counters.ignored += 1
            return
        self.counters.closed += 1
        self._withdraw(key, message.reason, left=session.asked and message.attempt > 1)
        keep = message.reason in (CloseReason.DONE, CloseReason.CANCELLED)
        self._end(session, message.attempt, now, keep=keep)

    def _bury(self, key: SessionKey, now: float, message: Close) -> None:
        self._withdraw(key, message.reason, left=self._config.deliver_for > 0)
        self._remember(key, message.attempt, now)

    def _remember(self, key: SessionKey, attempt: int, now: float) -> None:
        """Keep the attempt at which a session was closed, so that late copies of its opens do not revive it."""
        self._closed_at.put(key, max(attempt, self._closed_at.get(key, now) or 0), now)

    def _result(
        self,
        key: SessionKey,
        now: float,
        item: WorkItem,
        tokens: tuple[int, ...],
        times: tuple[int, int],
        rows: DraftRows,
    ) -> None:
        session = self._sessions[key]
        if session.flight is not item or not session.take_result(item, tokens, rows):
            self.counters.dropped += 1
        else:
            self._answer(session, item, times, now)
        self._note_ready(session, now)

    def _drop_result(self, key: SessionKey, now: float, *_: object) -> None:  # noqa: ARG002  the table's signature
        self.counters.dropped += 1
        self._out.append(ReleaseToCache(key) if key in self._prefixes else Free(key))

    def _fail(self, key: SessionKey, now: float, item: WorkItem, error: FlexSpecError | None) -> None:
        session = self._sessions[key]
        if session.flight is item:
            self.counters.failed += 1
            self._end(session, session.attempt, now)
            why = "" if error is None else error.message
            # The word of a server that writes its own texts is final; a target of another worker may do without.
            own = ErrorCode.SERVER if self._config.facts.writes else ErrorCode.INTERNAL
            known = ((GrammarError, ErrorCode.GRAMMAR), (ServerRefused, own))
            told = (code for kind, code in known if why and isinstance(error, kind))
            code = next(told, ErrorCode.INTERNAL)
            self._error(key, session.attempt, code, detail=why, qos=session.qos)

    def _drop(self, key: SessionKey, now: float) -> None:
        """End a session, and leave what its edge is not known to have, if that was promised."""
        session = self._sessions[key]
        if session.deliver and not session.delivered and len(session.chain) > session.have:
            self._deliver(session, now)
        self._end(session, session.attempt, now)

    def _yield(self, key: SessionKey, now: float) -> None:
        self.counters.yielded += 1
        self._let_go(key, now)

    def _let_go(self, key: SessionKey, now: float) -> None:
        session = self._sessions[key]
        self._error(key, session.attempt, ErrorCode.UNKNOWN, qos=session.qos)
        self._drop(key, now)

    def _ignore(self, key: SessionKey, now: float, *_: object) -> None:
        """Nothing to do: the session has gone meanwhile."""

    def _end(self, session: WorkerSession, attempt: int, now: float, *, keep: bool = False) -> None:
        del self._sessions[session.key]
        if not session.delivered:
            self.deliveries.leave(session.key)
        if session.ended is Fin.NONE:
            self._admission.ended(session, now)
        self._remember(session.key, attempt, now)
        if keep and self._config.prefixes and session.version not in self._retired:
            self._out.append(ReleaseToCache(session.key))
            self._out += [Free(key) for key in self._prefixes.put(session, now)]
        else:
            self._out.append(Free(session.key))
        self._forget_if_over(session.version)

    def _answer(self, session: WorkerSession, item: WorkItem, times: tuple[int, int], now: float) -> None:
        """Send what a result decided, at once or, in pure look-ahead, together with the next."""
        beyond = session.beyond_credit
        if session.ended is not Fin.NONE:
            self._admission.ended(session, now)
            self._renew(session, now)
            self._out.append(ReleaseToCache(session.key) if self._config.prefixes else Free(session.key))
        elif not (beyond or item.seq) and now < session.verdict_at + _SHARED:
            if session.flush_at is None:
                session.flush_at = session.verdict_at + _SHARED
            return
        if beyond:
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

    ROWS: ClassVar[Rows[WorkerState, WorkerEvent]] = (
        ((_S.ABSENT,), (_E.OPEN,), _create, (_S.LIVE, _S.FINISHED, _S.ABSENT), *_CREATE),
        ((_S.TOMB,), (_E.OPEN,), _revive, (_S.LIVE, _S.FINISHED, _S.TOMB), *_REVIVE),
        (_HERE, (_E.OPEN,), _reopen, _HERE, *_REOPEN),
        (_GONE, (_E.DRAFT, _E.POLL), _unknown, (), "", "unknown"),
        ((_S.LIVE,), (_E.DRAFT,), _draft, (), *_DRAFT),
        ((_S.LIVE,), (_E.POLL,), _draft, (), "", "as draft, then verdict from min(`have`, n)"),
        ((_S.FINISHED,), (_E.DRAFT,), _draft, (), "", "ignore"),
        ((_S.FINISHED,), (_E.POLL,), _draft, (), "", "verdict from min(`have`, n)"),
        (_GONE, (_E.CLOSE,), _bury, (_S.TOMB,), "", "remember the attempt"),
        ((_S.LIVE,), (_E.CLOSE,), _close, (_S.TOMB, _S.LIVE), *_CLOSE),
        ((_S.FINISHED,), (_E.CLOSE,), _close, (_S.TOMB, _S.FINISHED), *_CLOSE),
        (_GONE, (_E.RESULT,), _drop_result, (), "text kept; else", "drop; drop, free"),
        ((_S.LIVE,), (_E.RESULT,), _result, (_S.LIVE, _S.FINISHED), *_RESULT),
        ((_S.FINISHED,), (_E.RESULT,), _result, (), "", "drop"),
        (_GONE, (_E.FAILED,), _ignore, (), "", "ignore"),
        ((_S.LIVE,), (_E.FAILED,), _fail, (_S.TOMB, _S.LIVE), *_FAILED),
        ((_S.FINISHED,), (_E.FAILED,), _fail, (_S.TOMB, _S.FINISHED), *_FAILED),
        ((_S.LIVE,), (_E.SILENT,), _silent, (), "its answer is to be delivered", "write on to the end"),
        ((_S.FINISHED,), (_E.SILENT,), _silent, (), "its answer is to be delivered", "deliver"),
        (_HERE, (_E.EXPIRED,), _drop, (_S.TOMB,), "", "free"),
        (_HERE, (_E.RELEASED,), _let_go, (_S.TOMB,), "", "unknown, deliver what was promised, free"),
        ((_S.LIVE,), (_E.YIELDED,), _yield, (_S.TOMB,), "", "unknown, deliver what was promised, free"),
        ((_S.FINISHED,), (_E.DISPLACED,), _drop, (_S.TOMB,), "", "free, as the oldest of too many"),
    )


TABLE: TransitionTable[WorkerState, WorkerEvent] = TransitionTable(WorkerMachine.ROWS)
