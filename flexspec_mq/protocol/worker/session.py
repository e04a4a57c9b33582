"""A session at a worker: its chain, the batches held for it, and what may be decided next."""

from dataclasses import dataclass
from math import inf

import msgspec

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import ALL_ROWS, DraftRows, WorkerConfig, WorkerCounters, WorkItem
from schemas.messages import (
    MAX_DRAFT_TOKENS,
    MAX_VERDICT_TOKENS,
    Delivery,
    Draft,
    Fin,
    Open,
    Poll,
    Verdict,
)

MOST_HELD = 8
"""Batches kept per session until usable; on overflow the one with the lowest `have` goes, then the farthest."""
_MOST_DRAFTED = MOST_HELD * MAX_DRAFT_TOKENS
"""Drafted tokens that go into one forward of one session: after an outage all that its device wrote alone."""
_DRAFTED_ALONE = 8
"""Tokens that the worker may draft itself for one forward of a session whose edge is away."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Drafted tokens for positions `start` to `end - 1`, after the prefix that `digest` names."""

    start: int
    digest: int
    tokens: tuple[int, ...]
    have: int
    order: tuple[int, int]
    arrived: float

    @property
    def end(self) -> int:
        """Position after the last token: the last one that the batch lets the worker decide."""
        return self.start + len(self.tokens)


class WorkerSession:
    """The state of one (edge, session). `WorkerMachine` decides when to call what.

    Attributes:
        version: target version that decides its tokens.
        recommended: sampling that the edge is told with each accept; None where it samples so, or nothing is known.
        attempt: newest open.
        have: generated length that the edge is known to have, within this attempt.
        sent: end of the last verdict.
        fork: position after the last one where a draft was found wrong. Batches made by an edge that has not
            got so far are stale, wherever they start.
        ended: how the text ended, or `Fin.NONE`.
        flight: item at the engine.
        ready_since: since when there is something to compute, or None.
        opened_at: when it was created here.
        expires: end of the lease.
        deliver: seconds for which the broker keeps the answer, if the edge is away when it is written; 0 is not at all.
        asked: whether the edge asked for that: then another worker may have granted it, and left an answer there.
        delivered: whether that was left there since the newest open.
        silent_at: when the edge is taken to be away, or `inf`.
        away_since: since when it is, or `inf`.
        flush_at: when decided but unsent tokens are due, or None.
        polled_at: when a poll was last answered at once.
        qos: level of the edge's newest message.
    """

    def __init__(
        self, key: SessionKey, opened: Open, version: str, config: WorkerConfig, counters: WorkerCounters
    ) -> None:
        self.key = key
        self.version = version
        self._config = config
        self._counters = counters
        self.identity = identity = opened.identity
        recommended = config.facts.recommended
        sampled = msgspec.structs.replace(identity.sampling, seed=0)
        self.recommended = None if recommended == sampled else recommended
        self.prompt = opened.prompt
        self._eos = frozenset() if self.identity.ignore_eos else frozenset(self.identity.eos)
        self.chain = chains.chain_for(self.identity, version, self.prompt)
        self.held: list[Batch] = []
        self.have = 0
        self.sent = 0
        self.fork = 0
        self.ended = Fin.NONE
        self.flight: WorkItem | None = None
        self.ready_since: float | None = None
        self.opened_at = 0.0
        self.expires = 0.0
        self.deliver = 0
        self.asked = self.delivered = False
        self.silent_at = self.away_since = inf
        self.flush_at: float | None = None
        self.verdict_at = 0.0
        self.polled_at = float("-inf")
        self.qos = 0
        self.attempt = 0
        self._newest = (0, 0)
        self._ahead = 0
        self._worker_draft = 0
        self._rows = ALL_ROWS
        self._greet = True
        self._gap_at = -1

    # Opens

    def same_text(self, opened: Open, version: str) -> bool:
        """Whether an open asks for the text of this session."""
        theirs = chains.root(opened.identity, version)
        return opened.prompt == self.prompt and theirs == chains.root(self.identity, self.version)

    def merge(self, opened: Open, now: float) -> None:
        """Take an attempt above ours: the edge's committed prefix is the authority."""
        self.attempt = opened.attempt
        self._greet = True
        self.delivered = False
        self.held = []
        self.fork = 0
        self._gap_at = -1
        cut = self.chain.mismatch(0, opened.committed)
        if cut is not None:
            self.chain.cut(cut)
            self.ended = Fin.NONE
        self._extend(opened.committed[len(self.chain) :])
        self.have = self.sent = len(opened.committed)
        self._newest = (opened.attempt, opened.seq)
        self._grant(opened)
        start = len(opened.committed)
        self.hold(Batch(start, self.chain.digest(start), opened.draft, start, self._newest, now))

    # Batches

    def note(self, message: Draft | Poll) -> None:
        """Take what every draft says beside its tokens: progress, look-ahead credit, that it knows us."""
        order = (message.attempt, message.seq)
        if message.attempt == self.attempt:
            self._greet = False
            self.have = max(self.have, message.have)
        if order > self._newest:
            self._newest = order
            self._grant(message)

    def _grant(self, message: Open | Draft | Poll) -> None:
        writes = self._config.facts.writes
        self._ahead = message.ahead * max(1, writes)
        self._worker_draft = MAX_VERDICT_TOKENS - 1 if writes else message.worker_draft

    def hold(self, batch: Batch) -> bool:
        """Keep a batch that is usable or early; count and drop any other. Return whether it was kept."""
        if self.ended is not Fin.NONE or not self._fits(batch):
            return False
        self.held.append(batch)
        if len(self.held) > MOST_HELD:
            self._counters.held_dropped += 1
            self.held.remove(min(self.held, key=lambda held: (held.have, -held.start)))
        return True

    def _fits(self, batch: Batch) -> bool:
        """Whether a batch is usable now or may become so. The order of the tests matters."""
        n = len(self.chain)
        if batch.start > n:
            stale = batch.have < self.fork
        else:
            stale = batch.digest != self.chain.digest(batch.start)
            if not stale and (wrong := self.chain.mismatch(batch.start, batch.tokens)) is not None:
                self.fork = max(self.fork, wrong + 1)
                stale = True
        if stale:
            self._counters.stale += 1
            return False
        if batch.end < n:
            self._counters.duplicate += 1
            return False
        return True

    def gap_before(self, batch: Batch) -> bool:
        """Whether something is missing before a batch; True at most once per chain length."""
        reach = len(self.chain) + (len(self.flight.draft) if self.flight else 0)
        for held in sorted(self.held, key=lambda held: held.start):
            if held.start <= reach:
                reach = max(reach, held.end)
        if batch.start <= reach or self._gap_at == len(self.chain):
            return False
        self._gap_at = len(self.chain)
        return True

    # Work

    def ready(self) -> bool:
        """Whether an item could be made now."""
        if self.ended is not Fin.NONE or self.flight is not None:
            return False
        n = len(self.chain)
        return self.away or n - self.have < self._ahead or any(batch.start <= n for batch in self.held)

    def next_item(self, now: float) -> WorkItem:
        """Make an item of all contiguous batches that fit, else of look-ahead, and note it as in flight."""
        n = len(self.chain)
        draft, used = self._merged(n)
        draft = draft[: max(0, self.identity.limit - n - 1)]
        since = self.ready_since if self.ready_since is not None else now
        newest = max(used, key=lambda batch: batch.order, default=None)
        self._counters.items += 1
        self._counters.drafted += len(draft)
        self._counters.look_ahead += newest is None
        self.flight = WorkItem(
            key=self.key,
            version=self.version,
            start=n,
            digest=self.chain.digest(n),
            context=self.chain.view(self.prompt),
            prompt_length=len(self.prompt),
            draft=draft,
            identity=self.identity,
            seq=newest.order[1] if newest else 0,
            waiting_since=newest.arrived if newest else since,
            room=self._room(n + len(draft), len(draft)),
            batches=len(used),
        )
        self.ready_since = None
        return self.flight

    def _room(self, end: int, drafted: int) -> int:
        """Tokens that the engine may draft from `end` on: what they decide, and the target's own next one, is credit.

        Args:
            end: position after the edge's draft.
            drafted: tokens of that draft.
        """
        room = min(self.identity.limit - end - 1, _MOST_DRAFTED - drafted)
        if self.away:
            return max(0, min(self._worker_draft if self._config.facts.writes else _DRAFTED_ALONE, room))
        return max(0, min(self._worker_draft, self.have + self._ahead - end - 1, room))

    def _merged(self, n: int) -> tuple[tuple[int, ...], list[Batch]]:
        """Drafted tokens from position `n` on out of all held batches that join up; where two fit, the newest."""
        draft: tuple[int, ...] = ()
        used: list[Batch] = []
        digests = [self.chain.digest(n)]
        for first in sorted((b for b in self.held if b.start <= n), key=lambda b: b.order, reverse=True)[:1]:
            draft = first.tokens[n - first.start :][:_MOST_DRAFTED]
            used.append(first)
        for token in draft:
            digests.append(chains.after(digests[-1], token))
        for batch in sorted((b for b in self.held if b.start > n), key=lambda b: (b.start, b.order)):
            offset = batch.start - n
            joins = offset <= len(draft) and batch.digest == digests[offset]
            overlap = draft[offset:]
            if not joins or batch.tokens[: len(overlap)] != overlap:
                continue
            fresh = batch.tokens[len(overlap) :]
            if len(draft) + len(fresh) > _MOST_DRAFTED:
                break
            draft += fresh
            used.append(batch)
            for token in fresh:
                digests.append(chains.after(digests[-1], token))
        self.held = [batch for batch in self.held if batch not in used]
        return draft, used

    def take_result(self, item: WorkItem, tokens: tuple[int, ...], rows: DraftRows = ALL_ROWS) -> bool:
        """Append what the engine decided, unless the chain is another one by now; the next verdict tells of `rows`.

        Returns:
            False if the result was dropped.

        Raises:
            LocalProtocolError: the engine broke its contract.
        """
        if self.flight is item:
            self.flight = None
        n = len(self.chain)
        if item.start != n or item.digest != self.chain.digest(n):
            return False
        drafted, decided = len(item.draft), len(tokens) - rows.forced
        right = chains.common_length(tokens, item.draft)
        most = drafted + item.room + 1 if right == drafted else right + 1
        if not 0 <= decided <= most or not tokens:
            raise LocalProtocolError(
                f"{decided} decided tokens do not follow a draft of {drafted} with room for {item.room}"
            )
        self._extend(tokens)
        before = self._rows
        self._rows = DraftRows(before.drafted + rows.drafted, rows.granted, before.forced + rows.forced)
        took = len(self.chain) - n
        right = min(right, took)
        self._counters.decided += took
        self._counters.forced += rows.forced
        # The target's own next token may be as a token that was put off, and is no row that was accepted.
        verified = drafted if rows.granted is None else rows.granted
        accepted, own = min(right, verified), max(0, took - rows.forced - 1 - drafted)
        self._counters.accepted += accepted
        self._counters.worker_accepted += own
        version = self._counters.versions[self.version]
        version.decided += took
        version.drafts.met(verified + rows.drafted, accepted + own)
        if right < min(took, drafted):
            self.fork = max(self.fork, n + right + 1)
        if self.ended is not Fin.NONE:
            self.held = []
            return True
        self.held = [batch for batch in self.held if self._fits(batch)]
        if right == took < drafted:
            self._hold_rest(item, took)
        return True

    def _hold_rest(self, item: WorkItem, took: int) -> None:
        """The engine verified the beginning of a draft: the rest of it goes on from there."""
        start = item.start + took
        order = (self.attempt, item.seq)
        digest = self.chain.digest(start)
        self.hold(Batch(start, digest, item.draft[took:], item.start, order, item.waiting_since))

    def _extend(self, tokens: tuple[int, ...]) -> None:
        """Append tokens up to the end of the text, if it is among them."""
        if self.ended is not Fin.NONE or not tokens:
            return
        taken = tokens[: max(1, self.identity.limit - len(self.chain))]
        if not self._eos.isdisjoint(taken):
            self.ended = Fin.EOS
            taken = taken[: 1 + next(place for place, token in enumerate(taken) if token in self._eos)]
        self.chain.extend(taken)
        if self.ended is Fin.NONE and len(self.chain) >= self.identity.limit:
            self.ended = Fin.LENGTH

    @property
    def tokens(self) -> int:
        """Length of prompt, decided tokens and the next one."""
        return len(self.prompt) + len(self.chain) + 1

    @property
    def away(self) -> bool:
        """Whether the edge is away: the text is written on without credit, and what goes beyond that is not sent."""
        return self.away_since < inf

    @property
    def beyond_credit(self) -> bool:
        """Whether more is decided than the edge has room for, and it is away."""
        return self.away and len(self.chain) > self.have + self._ahead

    @property
    def owes_since(self) -> float | None:
        """Since when the edge waits for what is being computed or will be next; None if for nothing."""
        return self.flight.waiting_since if self.flight is not None else self.ready_since

    # Verdicts

    def ask_again(self) -> None:
        """The next verdict shall begin at what the edge is known to have."""
        self.sent = min(self.have, len(self.chain))

    def verdict(self, now: float, *, echo: int | None = None, times: tuple[int, int] = (0, 0)) -> Verdict:
        """All that was decided since the last verdict, and note it as sent.

        Args:
            now: seconds.
            echo: `seq` to echo; None is the newest one seen.
            times: queue and compute in ms, of the forward that this verdict comes from. Without a forward, how
                long the session's work has waited up to now, and 0.
        """
        start = min(self.sent, len(self.chain))
        end = min(len(self.chain), start + MAX_VERDICT_TOKENS)
        self.sent = end
        self.flush_at = None
        self.verdict_at = now
        self._counters.verdicts += 1
        whole = end == len(self.chain)
        rows = self._rows if end > start else ALL_ROWS
        if rows is self._rows:
            self._rows = ALL_ROWS
        return Verdict(
            self.key[1],
            self.attempt,
            self._newest[1] if echo is None else echo,
            start,
            self.chain.tokens(start, end),
            self.chain.digest(end),
            self.ended if whole else Fin.NONE,
            *times,
            self._config.worker if self._greet else None,
            self._config.lease if self._greet else 0,
            rows.drafted,
            None if rows.granted is None else min(rows.granted, MAX_DRAFT_TOKENS),
            self.recommended if self._greet else None,
            rows.forced,
            self.deliver if self._greet else 0,
        )

    def delivery(self) -> Delivery:
        """The whole answer, as far as it is written."""
        n = len(self.chain)
        tokens, digest = self.chain.tokens(0, n), self.chain.digest(n)
        return Delivery(self.key[1], self.attempt, tokens, digest, self.ended, self._config.worker)

    def gap(self, now: float, times: tuple[int, int]) -> Verdict:
        """A verdict from what the edge has, saying that something before its newest batch is missing."""
        self.ask_again()
        verdict = self.verdict(now, times=times)
        return msgspec.structs.replace(verdict, fin=Fin.GAP) if verdict.fin is Fin.NONE else verdict
