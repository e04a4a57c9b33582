"""Messages of an edge session: opens, batches, credit and polls, by the plan; and what of them is on its way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq.controller.plan import Plan
from flexspec_mq.protocol.digest import prefix_name
from flexspec_mq.protocol.edge.types import DraftToken, SessionRequest
from flexspec_mq.protocol.effects import Send
from schemas.messages import MAX_DRAFT_TOKENS, MAX_IN_FLIGHT, Close, CloseReason, Draft, Open, Poll, Prefix

if TYPE_CHECKING:
    from flexspec_mq.controller.estimators.round_trip import RoundTrip
    from flexspec_mq.protocol.edge.text import SessionText
    from schemas.openai import StoppedAlone


_EARLY = 0.4
"""Probability that a draft is right so far, from which on it is made before it may be sent: below it a device works for
nothing, and in 8 simulated settings answers take 0.99 to 1.01 of the time with a tenth fewer tokens drafted."""


class Span(NamedTuple):
    """A batch of the tokens at positions `start` to `end - 1`. It lets the worker decide up to `end`."""

    start: int
    end: int


class Sender:
    """Makes the messages of a session, and decides how much is drafted and where a batch ends, by K of the plan.

    It alone knows the window, the credit and the sequence numbers.

    The window is what is on its way to one worker. Its batches are contiguous: the next starts where the last one
    ended.

    Args:
        request: the generation.
        rtt: told of each message that wants an answer.
        text: the session's text, to read.

    Attributes:
        acked: length of the chain that the adopted worker is known to hold.
        fallback: tokens that the draft may write alone behind what is committed; None once anybody has answered.
        in_flight: batches not yet fully decided, at most W of the plan plus one that came with an open or poll.
    """

    def __init__(self, request: SessionRequest, rtt: RoundTrip, text: SessionText) -> None:
        self._request = request
        self._rtt = rtt
        self._text = text
        self.acked = 0
        self.in_flight: list[Span] = []
        self._sent_to = 0  # position after the last token sent, never below `acked`
        self._qos = 0
        self._seq = 0
        self._with_open: Span | None = None
        self._credited = 0  # committed length that the newest message told
        self._granted = (0, 0)  # look-ahead, and drafts of the worker's own, that it granted
        self._to = ""
        self._attempt = 0
        self._stopped = False  # nothing is drafted at the tip until something new is committed
        self.fallback: int | None = None
        self._fallback_to = 0  # position after the last token that was drafted so

    @property
    def expecting(self) -> bool:
        """Whether the adopted worker owes us an answer."""
        return self._granted[0] > 0 or bool(self.in_flight)

    @property
    def silent(self) -> bool:
        """Whether the adopted worker runs ahead and nothing of ours is under way that its verdicts could echo."""
        return self._granted[0] > 0 and not self.in_flight

    @property
    def lets_draft(self) -> bool:
        """Whether the adopted worker may draft itself, as of the newest message."""
        return self._granted[1] > 0

    def batches(self, start: int, end: int) -> list[tuple[int, int]]:
        """The batches in which the drafted tokens from `start` to `end - 1` went out, or will, without forced ones.

        Returns:
            For each, the place of its first one of these tokens in it, from 0, and their number. Beyond what was sent
            the next batch begins.
        """
        parts = []
        free = self._text.free
        for span in self.in_flight:
            if span.start <= start < min(span.end, end):
                until = min(span.end, end)
                parts.append((free(span.start, start), free(start, until)))
                start = until
        if start < end:
            parts.append((0, free(start, end)))
        return [(place, number) for place, number in parts if number]

    @property
    def drafted(self) -> int:
        """Drafted tokens that wait to be sent; those that the grammar forces do not count."""
        return self._text.free(max(self._sent_to, self._text.committed), self._text.tip)

    @property
    def drafting(self) -> bool:
        """Whether another token may be drafted at the tip, if it is wanted."""
        return not (self._stopped or self._text.capped)

    def wanted(self, plan: Plan) -> int:
        """Drafted tokens that are wanted now, none or less where more would be of no use.

        They fill a batch of K, or are all that the draft may write alone; none behind such a long draft before it is
        looked at, nor behind a doubtful one while the window is full. The target decides the last token of the text.
        """
        text = self._text
        if self.stopped_alone:
            return 0
        if self.fallback:
            count = self.fallback - (text.tip - text.committed)
        else:
            full = len(self.in_flight) >= plan.in_flight
            idle = self._fallback_to > text.committed or (full and text.pending.joint_acceptance < _EARLY)
            count = 0 if idle else plan.draft_length - self.drafted
        return min(count, text.limit - 1 - text.tip)

    @property
    def stopped_alone(self) -> StoppedAlone:
        """Why the draft writes no more alone; empty while it may, or need not."""
        if not self.fallback:
            return ""
        if self.fallback <= self._text.tip - self._text.committed:
            return "limit"
        return "unsure" if self._text.doubtful else "repeats" if self._text.loops else ""

    # What is drafted

    def take(self, token: DraftToken, plan: Plan) -> bool:
        """Append a drafted token, unless the draft would then be accepted less likely than the plan wants."""
        taken = self._text.draft(token, 0.0 if self.fallback else plan.confidence_threshold)
        self._stopped = not taken
        if taken and self.fallback:
            self._fallback_to = self._text.tip
        return taken

    def stop(self) -> None:
        """The drafter goes on at this tip no more."""
        self._stopped = True

    def fall_back(self, most: int) -> None:
        """The draft may write so many tokens alone."""
        self.fallback = most
        if most:
            self._stopped = False
            self._fallback_to = self._text.tip

    # What happens

    def progressed(self, *, rolled_back: bool) -> None:
        """Something new is committed; with `rolled_back` the pending draft was wrong, and all that is in flight."""
        self._stopped = False
        if rolled_back:
            self._fallback_to = 0
            self.in_flight = []
            self._sent_to = self.acked
            self._rtt.rolled_back()
            self._with_open = None

    def adopted(self, worker: str, attempt: int, *, newest: bool) -> None:
        """A worker was adopted: only the newest open's draft is known to be on its way to it."""
        self._to, self._attempt = worker, attempt
        self._restart(self._with_open if newest else None)

    def holds(self, end: int) -> None:
        """The adopted worker is known to hold the first `end` tokens of our chain."""
        self.acked = max(self.acked, end)
        while self.in_flight and self.in_flight[0].end < self.acked:
            self.in_flight.pop(0)
        self._sent_to = max(self._sent_to, self.acked)

    def _restart(self, came_with_open: Span | None) -> None:
        """Begin with a worker of which nothing is known but that it has our newest open, if at all."""
        self.acked = 0
        self.in_flight = [came_with_open] if came_with_open else []
        self._sent_to = came_with_open.end if came_with_open else 0

    # What goes out

    def open(
        self,
        plan: Plan,
        attempt: int,
        now: float,
        expiry: float,
        *,
        named: bool = False,
        to: str | None = None,
    ) -> Send:
        """An attempt, with what is committed and drafted.

        Under keys only a worker that has answered is told these: any other open is sealed for whoever may answer it.

        Args:
            plan: plan for it.
            attempt: number of it.
            now: seconds.
            expiry: seconds after which nobody need read it.
            named: whether it is for the worker that knows the prompt's start.
            to: adopted worker, if that holds less than is committed; None is any, or the one that `named` means.
        """
        request, text = self._request, self._text
        reuse = request.reuse if named else None
        bare = request.keyed and to is None
        told = 0 if bare else text.committed
        end = told if bare else min(text.tip, told + MAX_DRAFT_TOKENS)
        resumes = text.committed - told
        self._with_open = None if resumes else Span(told, end)
        self._restart(self._with_open)
        if to is not None:
            self._attempt = attempt
        ahead, worker_draft = (0, 0) if resumes else _grant(plan)
        message = Open(
            request.session,
            attempt,
            request.identity,
            request.prompt[reuse.count :] if reuse else request.prompt,
            text.chain.tokens(0, told),
            ahead,
            self._stamp(plan, now, end, question=True),
            text.chain.tokens(told, end),
            self._prefix(reuse.count) if reuse else None,
            worker_draft,
            resumes,
            b""
            if to is not None or (reuse and reuse.grammar == request.identity.grammar)
            else request.grammar,
            request.deliver,
        )
        qos = plan.qos if plan.open_qos is None else plan.open_qos
        return Send(reuse.worker if reuse else to, message, qos, expiry)

    def batch(self, plan: Plan, now: float) -> Send | None:
        """The batch that is due, if one is. A draft that was written alone has waited for long: it goes out at once."""
        drafting = self.drafting and plan.draft_length > 0
        if self._fallback_to > self._text.committed and not self.fallback:
            plan, drafting = replace(plan, draft_length=MAX_DRAFT_TOKENS, in_flight=MAX_IN_FLIGHT), False
        end = self._next_end(plan, drafting=drafting)
        if end is None:
            return None
        span = Span(self._sent_to, end)
        self.in_flight.append(span)
        self._sent_to = end
        return self._tokens(Draft, plan, span, now)

    def _next_end(self, plan: Plan, *, drafting: bool) -> int | None:
        """Where the batch that is due now would end, or None if none is due.

        Tokens committed through another worker go out at once, as the best drafts there are; drafted ones when
        there are K of them, or when no more will come. Forced ones behind the last of them stay here:
        the worker goes on with them by itself.
        """
        if len(self.in_flight) >= plan.in_flight:
            return None
        committed, sent_to = self._text.committed, self._sent_to
        drafted = self.drafted
        if sent_to < committed:
            return min(
                sent_to + MAX_DRAFT_TOKENS, self._text.reach(committed, min(drafted, plan.draft_length))
            )
        if drafted and not drafting:
            return self._text.reach(sent_to, min(drafted, plan.draft_length or MAX_DRAFT_TOKENS))
        if drafted >= plan.draft_length > 0:
            return self._text.reach(sent_to, plan.draft_length)
        if not drafted and not drafting and not self.in_flight and not plan.ahead:
            return sent_to
        return None

    def credit(self, plan: Plan, now: float, *, ask: bool) -> Send | None:
        """Look-ahead credit, if the worker may be short of it or the plan grants another; `ask`: must be answered."""
        ahead, acked = plan.ahead, self.acked
        if not ask and (
            _grant(plan) == self._granted
            and not (ahead and self._text.committed - self._credited >= max(1, ahead // 2))
        ):
            return None
        return self._tokens(Poll if ask else Draft, plan, Span(acked, acked), now)

    def poll(self, plan: Plan, now: float) -> Send:
        """Ask for an answer, and send again all that the worker may have missed."""
        end = min(self.acked + MAX_DRAFT_TOKENS, max(self._sent_to, self._text.committed))
        span = Span(self.acked, end)
        self.in_flight = [span]
        self._sent_to = end
        return self._tokens(Poll, plan, span, now)

    def close(self, worker: str, attempt: int, reason: CloseReason) -> Send:
        """End the session at one worker. Never repeated, never acknowledged: the lease cleans up."""
        close = Close(self._request.session, attempt, self._text.committed, reason)
        return Send(worker, close, self._qos, None)

    def _prefix(self, count: int) -> Prefix:
        request = self._request
        return Prefix(
            count, prefix_name(request.identity.fingerprint, request.version, request.prompt[:count])
        )

    def _stamp(self, plan: Plan, now: float, end: int, *, question: bool) -> int:
        """A message goes out by this plan now, that wants an answer and whose tokens end there: its number.

        A question is answered whatever becomes of its tokens.
        """
        self._qos = plan.qos
        self._credited, self._granted = self._text.committed, _grant(plan)
        self._seq += 1
        self._rtt.sent(self._seq, now, end, question=question)
        return self._seq

    def _tokens(self, kind: type[Draft | Poll], plan: Plan, span: Span, now: float) -> Send:
        text = self._text
        message = kind(
            self._request.session,
            self._attempt,
            self._stamp(plan, now, span.end, question=kind is Poll),
            text.committed,
            span.start - text.committed,
            text.chain.digest(span.start),
            text.chain.tokens(span.start, span.end),
            *_grant(plan),
        )
        return Send(self._to, message, plan.qos, 2 * self._rtt.timeout)


def _grant(plan: Plan) -> tuple[int, int]:
    """Look-ahead, and how much of it may be drafted at a time: nothing without look-ahead."""
    return plan.ahead, plan.worker_draft if plan.ahead else 0
