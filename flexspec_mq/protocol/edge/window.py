"""The sliding window: what the adopted worker is known to hold, and what is on its way there."""

from __future__ import annotations

from dataclasses import dataclass

from flexspec_mq.controller.plan import Plan
from schemas.messages import MAX_DRAFT_TOKENS


@dataclass(frozen=True, slots=True)
class Span:
    """A batch of the tokens at positions `start` to `end - 1`. It lets the worker decide up to `end`."""

    start: int
    end: int


class Window:
    """Batches in flight to one worker. Batches are contiguous: the next starts where the last one ended.

    Attributes:
        held: length of the chain that the worker is known to hold.
        sent_to: position after the last token sent, never below `held`.
        in_flight: batches not yet fully decided, at most W of the plan plus one that came with an open or poll.
    """

    def __init__(self) -> None:
        self.held = 0
        self.sent_to = 0
        self.in_flight: list[Span] = []

    def restart(self, came_with_open: Span | None) -> None:
        """Begin with a worker of which nothing is known but that it has our newest open, if at all."""
        self.held = 0
        self.in_flight = [came_with_open] if came_with_open else []
        self.sent_to = came_with_open.end if came_with_open else 0

    def holds(self, end: int) -> None:
        """The worker is known to hold the first `end` tokens of our chain."""
        self.held = max(self.held, end)
        while self.in_flight and self.in_flight[0].end < self.held:
            self.in_flight.pop(0)
        self.sent_to = max(self.sent_to, self.held)

    def roll_back(self) -> None:
        """The pending draft is gone and all in flight with it; sending restarts at what the worker holds."""
        self.in_flight = []
        self.sent_to = self.held

    def send(self, end: int) -> Span:
        """Put the next batch in flight."""
        span = Span(self.sent_to, end)
        self.in_flight.append(span)
        self.sent_to = end
        return span

    def send_again(self, have: int) -> Span:
        """Put everything unacknowledged in flight as one batch, in place of what was."""
        end = min(self.held + MAX_DRAFT_TOKENS, max(self.sent_to, have))
        span = Span(self.held, end)
        self.in_flight = [span]
        self.sent_to = end
        return span

    def next_end(self, plan: Plan, have: int, tip: int, *, drafting: bool) -> int | None:
        """Where the batch that is due now would end, or None if none is due.

        Tokens committed through another worker go out at once, as the best drafts there are; drafted ones when
        there are K of them, or when no more will come.

        Args:
            plan: K, W and run-ahead.
            have: committed length.
            tip: length of committed and drafted tokens.
            drafting: whether the drafter is expected to add more.
        """
        if len(self.in_flight) >= plan.in_flight:
            return None
        drafted = tip - max(self.sent_to, have)
        if self.sent_to < have:
            return min(self.sent_to + MAX_DRAFT_TOKENS, have + min(drafted, plan.draft_length))
        if drafted and not drafting:
            return self.sent_to + min(drafted, plan.draft_length or MAX_DRAFT_TOKENS)
        if drafted >= plan.draft_length > 0:
            return self.sent_to + plan.draft_length
        if not drafted and not drafting and not self.in_flight and not plan.ahead:
            return self.sent_to
        return None
