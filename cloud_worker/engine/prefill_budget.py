"""How much of unread prefixes a forward may read, so that it does not take too long.

Two things are measured. What a forward takes without any reading: a line over the tokens that writing sessions feed
into it, by least squares with exponential weights. And what each token that is read adds to that. From both follows
how many tokens fit into the time that a step may take. While sessions write, every eighth forward reads nothing, so
that the first of the two stays fresh.

What is not known is taken to be slow: without a spread of sizes all of the time is put down to tokens, and a forward
beside writing sessions reads at most twice what those before it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST = 8
"""Tokens that one forward may read in any case, so that every prompt is read some day."""
_FORGET = 0.7
"""Weight of all earlier forwards when one more is seen: about three count."""
_PRIOR = 0.02
"""Weight of a line through the origin, beside a spread of sizes that equals their mean."""
_PROBE = 8
"""One forward in so many reads nothing."""


@dataclass(slots=True)
class _Line:
    """A line fitted to the newest points."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def saw(self, x: float, y: float) -> None:
        self.weight = 1.0 + _FORGET * self.weight
        self.x = x + _FORGET * self.x
        self.y = y + _FORGET * self.y
        self.xx = x * x + _FORGET * self.xx
        self.xy = x * y + _FORGET * self.xy

    def at(self, x: float) -> float:
        """The line's value, never below 0; 0 before any point."""
        if not self.weight:
            return 0.0
        mean, level = self.x / self.weight, self.y / self.weight
        spread = self.xx / self.weight - mean * mean + _PRIOR * mean * mean
        slope = (self.xy / self.weight - mean * level + _PRIOR * mean * level) / spread
        return max(0.0, level + max(0.0, min(slope, level / mean)) * (x - mean))


@dataclass(slots=True)
class PrefillBudget:
    """Bounds the reading in each step.

    Attributes:
        most: tokens that one forward may read in any case.
        target: ms that a step should take at most.
        stretch: how much longer than without any reading a step may be while sessions write.
        least: tokens that one forward may read in any case, but for those that read nothing.
    """

    most: int = 128
    target: float = 250.0
    stretch: float = 1.8
    least: int = LEAST
    _alone: _Line = field(default_factory=_Line)
    _tokens: float = 0.0
    _ms: float = 0.0
    _read: int = 0
    _since: int = 0

    def saw(self, writing: int, read: int, ms: float) -> None:
        """A forward is done.

        Args:
            writing: tokens that it fed for sessions that write.
            read: tokens of prefixes.
            ms: how long it took.
        """
        if read:
            self._tokens = read + _FORGET * self._tokens
            self._ms = max(0.0, ms - self._alone.at(writing)) + _FORGET * self._ms
            self._read = max(read, self._read // 2)
            self._since += 1
        elif writing:
            self._alone.saw(writing, ms)
            self._since = 0

    def budget(self, writing: int) -> int:
        """Tokens that the next forward may read.

        Args:
            writing: tokens that it feeds for sessions that write.
        """
        if writing and self._since >= _PROBE - 1:
            return 0
        alone = self._alone.at(writing)
        allowed = min(self.target, self.stretch * alone) if writing and alone else self.target
        each = self._ms / self._tokens if self._tokens else alone / max(1, writing)
        fits = (allowed - alone) / each if each > 0.0 else self.most
        # Nobody waits for a forward in which no session writes, so only its time has to be known.
        cap = self.most if self._tokens and not writing else 2 * self._read
        return max(self.least, min(self.most, int(min(fits, self.most)), cap))
