"""All that an edge session sends: opens, batches, credit, polls, closes. Asks the policy for plans."""

from __future__ import annotations

import random

from flexspec_mq.controller.estimators.rate import Rate
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.plan import Observation, Plan, Policy
from flexspec_mq.protocol.edge.peers import Peers
from flexspec_mq.protocol.edge.text import EdgeText
from flexspec_mq.protocol.edge.timers import EdgeTimers
from flexspec_mq.protocol.edge.types import EdgeConfig, EdgeCounters, SessionRequest
from flexspec_mq.protocol.edge.window import Span, Window
from flexspec_mq.protocol.effects import Effect, Send
from flexspec_mq.protocol.prefix import prefix_name
from schemas.messages import MAX_DRAFT_TOKENS, Close, CloseReason, Draft, Open, Poll, Prefix


class EdgeSender:
    """The sending half of a session, and the parts that both halves share.

    Attributes:
        counters, text, window, peers, rtt, timers: of the session.
        out: effects that wait to be returned.
        stopped: nothing is drafted at the tip of the branch until something new is committed.
        named: the newest open named the beginning of the prompt, to one worker.
        draft_time: smoothed seconds per token of the draft model, None before a sample.
        rate: of commits.

    Args:
        request: the generation.
        policy: asked once for every batch, and anew after every commit.
        rng: jitter of opens.
        config: timers and bounds.
    """

    def __init__(
        self, request: SessionRequest, policy: Policy, rng: random.Random, config: EdgeConfig
    ) -> None:
        self._request = request
        self._policy = policy
        self.counters = EdgeCounters()
        self.text = EdgeText(request, self.counters)
        self.window = Window()
        self.peers = Peers(config.max_known)
        self.rtt = RoundTrip(config.initial_rto, config.min_rto, config.max_rto)
        self.timers = EdgeTimers(config, self.rtt, rng, request.deadline)
        self.out: list[Effect] = []
        self.stopped = False
        self.named = False
        self.draft_time: float | None = None
        self.rate = Rate()
        self._plan: Plan | None = None
        self._qos = 0
        self._seq = 0
        self._with_open: Span | None = None
        self._credited = 0  # committed length that the newest message told
        self._ahead = 0  # run-ahead that it granted

    @property
    def observation(self) -> Observation:
        """What a policy plans from."""
        return Observation(
            rtt=self.rtt.smoothed,
            rtt_var=self.rtt.deviation,
            queue=self.rtt.queue,
            compute=self.rtt.compute,
            draft_time=self.draft_time,
            rate=self.rate.per_second,
            drafted=self.counters.judged,
            accepted=self.counters.accepted,
            committed=self.text.have,
        )

    @property
    def plan(self) -> Plan:
        """The plan for the next batch."""
        if self._plan is None:
            self._plan = self._policy.plan(self.observation)
        return self._plan

    @property
    def wants_draft(self) -> bool:
        """Whether fewer than K drafted tokens wait to be sent, and more would be of use."""
        return not self.stopped and not self.text.capped and self.room > 0

    @property
    def room(self) -> int:
        """Drafted tokens until a batch of K is full, or the target decides the last token of the text."""
        tip = len(self.text.chain)
        left = self.plan.draft_length - self.window.unsent(self.text.have, tip)
        return min(left, self.text.limit - 1 - tip)

    @property
    def price(self) -> float:
        """Tokens that the session would get in the time that one token takes the draft model; 0 while unknown."""
        return (self.draft_time or 0.0) * (self.rate.per_second or 0.0)

    @property
    def expecting(self) -> bool:
        """Whether the adopted worker owes us an answer."""
        return bool(self.window.in_flight) or self._ahead > 0

    def open(self, now: float) -> None:
        """Publish the next attempt, with what is committed and drafted.

        The first one goes to the worker that knows the beginning of the prompt, if there is one.
        """
        text, plan, prompt = self.text, self._use_plan(), self._request.prompt
        reuse = None if self.peers.attempt else self._request.reuse
        self.named = reuse is not None
        self.counters.named += self.named
        self.peers.attempt += 1
        end = min(len(text.chain), text.have + MAX_DRAFT_TOKENS)
        self._with_open = Span(text.have, end)
        self.window.restart(self._with_open)
        message = Open(
            self._request.session,
            self.peers.attempt,
            self._request.identity,
            prompt[reuse.count :] if reuse else prompt,
            text.committed,
            plan.ahead,
            self._stamp(now),
            text.chain.tokens(text.have, end),
            self._prefix(reuse.count) if reuse else None,
        )
        self.counters.opens += 1
        self.counters.reopens += self.counters.opens > 1
        self.counters.batches += 1
        to = reuse.worker if reuse else None
        self.out.append(Send(to, message, plan.qos, self.timers.next_open(now)))

    def _prefix(self, count: int) -> Prefix:
        request = self._request
        name = prefix_name(request.identity.fingerprint, request.version, request.prompt[:count])
        return Prefix(count, name)

    def adopted(self, attempt: int) -> None:
        """A worker was adopted at `attempt`: only the newest open's draft is known to be on its way to it."""
        self.window.restart(self._with_open if attempt == self.peers.attempt else None)

    def progressed(self, *, rolled_back: bool) -> None:
        """Tokens were committed: plan anew, and forget what the branch had in flight if it was wrong."""
        self.stopped = False
        self._plan = None
        if rolled_back:
            self.window.roll_back()
            self._with_open = None

    def pump(self, now: float) -> None:
        """Send every batch that is due, then run-ahead credit if the worker may be short of it."""
        text, window = self.text, self.window
        while True:
            drafting = not (self.plan.draft_length == 0 or self.stopped or text.capped)
            end = window.next_end(self.plan, text.have, len(text.chain), drafting=drafting)
            if end is None:
                break
            self.counters.batches += 1
            self._send_tokens(window.send(end), now)
        ahead = self.plan.ahead
        if ahead != self._ahead or (ahead and text.have - self._credited >= max(1, ahead // 2)):
            self.counters.acks += 1
            self._send_tokens(Span(window.held, window.held), now)

    def poll(self, now: float) -> None:
        """Ask for an answer, and send again all that the worker may have missed."""
        self.counters.polls += 1
        self._send_tokens(self.window.send_again(self.text.have), now, poll=True)

    def close(self, worker: str, attempt: int, reason: CloseReason) -> None:
        """End the session at one worker. Never repeated, never acknowledged: the lease cleans up."""
        self.counters.closes += 1
        close = Close(self._request.session, attempt, self.text.have, reason)
        self.out.append(Send(worker, close, self._qos, None))

    def _use_plan(self) -> Plan:
        """Take the plan for a message that goes out now. The next one asks the policy again."""
        plan = self.plan
        self._plan = None
        self._qos = plan.qos
        self._credited, self._ahead = self.text.have, plan.ahead
        return plan

    def _stamp(self, now: float) -> int:
        self._seq += 1
        self.rtt.sent(self._seq, now)
        return self._seq

    def _send_tokens(self, span: Span, now: float, *, poll: bool = False) -> None:
        text, plan = self.text, self._use_plan()
        message = (Poll if poll else Draft)(
            self._request.session,
            self.peers.current,
            self._stamp(now),
            text.have,
            span.start - text.have,
            text.chain.digest(span.start),
            text.chain.tokens(span.start, span.end),
            plan.ahead,
        )
        self.timers.sent(now)
        self.out.append(Send(self.peers.worker, message, plan.qos, 2 * self.rtt.timeout))
