"""Running means that a limit holds for, and what they leave for the next tokens."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation

_MEMORY = 8192.0
"""Tokens after which what was spent counts for little (1/e)."""
_SPREAD = 32
"""Tokens over which a debt is paid back, and what was saved is spent."""
_RESERVE = 8
"""Tokens' worth of a budget that is not spent, as estimates are not exact."""
_AIM = 0.95
"""Share of a latency target that plans are chosen for: estimates are not exact."""


class Ledger:
    """Joules of all texts of a node, older ones counting less."""

    def __init__(self) -> None:
        self._joules = 0.0
        self._tokens = 0.0
        self._before = 0.0  # of the joules, those that texts took until their first token
        self._begun = 0.0  # tokens of these texts

    def spent(self, joules: float, tokens: int) -> None:
        """So much more was spent, and so many tokens came."""
        keeps = exp(-tokens / _MEMORY)
        self._joules = keeps * self._joules + joules
        self._tokens = keeps * self._tokens + tokens
        self._before *= keeps
        self._begun *= keeps

    def ended(self, before: float, tokens: int) -> None:
        """A text of so many tokens, which are entered, took so much until its first one."""
        self._before += before
        self._begun += tokens

    @property
    def mean(self) -> float | None:
        """Joules per token; None before a token."""
        return self._joules / self._tokens if self._tokens else None

    @property
    def beginning(self) -> float:
        """Joules per token that texts take until their first one, whatever the plan; 0 before one has ended."""
        return self._before / self._begun if self._begun else 0.0

    def allowed(self, budget: float, remaining: int) -> float:
        """Joules per token for the next ones, so that the mean comes to the budget soon; may be negative.

        Args:
            budget: joules per token.
            remaining: tokens that the text may still have.
        """
        saved = budget * (self._tokens - _RESERVE) - self._joules
        return budget + saved / _spread(remaining)


class TokenPace:
    """Seconds per token of one text after its first."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def mean(self, seen: Observation) -> float | None:
        """So far; None before a second commit. To be asked after each commit, the first one included."""
        if seen.at is None:
            return None
        if self._first is None:
            self._first = seen.committed, seen.at
        tokens, began = self._first
        return (seen.at - began) / (seen.committed - tokens) if seen.committed > tokens else None

    def allowed(self, target: float, seen: Observation) -> float:
        """Seconds per token for the next ones: less than the target where time was lost. None is saved for later."""
        mean = self.mean(seen)
        lost = 0.0
        if mean is not None and self._first is not None:
            lost = max(0.0, (mean - target) * (seen.committed - self._first[0]))
        return _AIM * target - lost / _spread(seen.remaining)


def _spread(remaining: int) -> int:
    return max(1, min(_SPREAD, remaining))
