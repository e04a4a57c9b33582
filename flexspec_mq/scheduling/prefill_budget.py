"""How much of unread prefixes a forward may read: sessions that write go on smoothly, and no prompt starves.

While sessions write, reading may make a forward longer by a bounded factor, the stretch, and no longer than a target
in ms. But where the forward takes long without any reading, reading may still add half of that, whatever the target
says. So as long as prompts wait, reading gets at least a third of the time, and a prompt is read within a time in
proportion to the tokens that wait, on a machine of any speed. A device that has had much read gets a fifteenth of
the time while others write, since they wait for it. The same where no session writes: the forward may take
the target, or the stretch times what it takes with hardly any reading, if that is more.

Three times are measured: that of a forward without any reading, a line over the tokens that writing sessions feed
into it, by least squares with exponential weights; of each token that is read; and of a forward that reads the least
and has no session that writes. While sessions write, every eighth forward reads nothing, and where none writes and
the time is short, one in thirty-two reads the least, so that all three stay fresh. Unknown times are taken to be long.
A forward beside writing sessions reads at most twice what those before it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

LEAST = 8
"""Tokens that one forward may read in any case, so that every prompt is read some day."""
_FORGET = 0.7
"""Weight of all earlier forwards when one more is seen: about three count."""
_PRIOR = 0.02
"""Weight of a line through the origin, beside a spread of sizes that equals their mean."""
_PROBE = 8
"""Interval of forwards that read nothing while sessions write."""
_PROBE_LIGHT = 32
"""Interval of forwards that read the least where none writes: such a forward costs as much as one that reads a lot."""
_LONGER = 1.5
"""A forward tells what a token takes where it reads so many times the least."""
_PIECE = 32
"""Tokens that are read for it at a time: kernels take hardly longer for these than for less."""
_STALL = 1.5
"""A forward that takes so many times what it should was stopped by something else: it counts for no more."""
_SHARE = 0.5
"""Share of a forward's time without reading that reading may add in any case."""


@dataclass(slots=True)
class _Line:
    """A line fitted to the newest points."""

    weight: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def observe(self, x: float, y: float) -> None:
        self.weight = 1.0 + _FORGET * self.weight
        self.x = x + _FORGET * self.x
        self.y = y + _FORGET * self.y
        self.xx = x * x + _FORGET * self.xx
        self.xy = x * y + _FORGET * self.xy

    @property
    def mean(self) -> tuple[float, float]:
        """Mean of the points; there is one."""
        return self.x / self.weight, self.y / self.weight

    def most(self, x: float) -> float:
        """Likely maximum: what was seen in the mean, in proportion where it is more; infinite before that."""
        if not self.weight:
            return inf
        return self.y / self.weight * max(1.0, x * self.weight / self.x if self.x else 0.0)

    def at(self, x: float) -> float:
        """The line's value, never below 0; 0 before any point. An unsure slope makes it lower."""
        if not self.weight:
            return 0.0
        mean, level = self.mean
        prior = _PRIOR * mean * mean
        common = self.xy / self.weight - mean * level
        if x < mean:
            common += _PRIOR * mean * level
        slope = common / (self.xx / self.weight - mean * mean + prior)
        return max(0.0, level + max(0.0, min(slope, level / mean)) * (x - mean))


@dataclass(slots=True)
class PrefillBudget:
    """Bounds the reading in each step.

    Attributes:
        most: tokens that one forward may read in any case.
        target: ms that a step should take at most, as far as reading gets its share.
        stretch: how much longer than without any reading a step may be while sessions write.
        least: tokens that one forward may read in any case, but for those that read nothing.
    """

    most: int = 128
    target: float = 250.0
    stretch: float = 1.8
    least: int = LEAST
    _alone: _Line = field(default_factory=_Line)
    _only: _Line = field(default_factory=_Line)
    _tokens: float = 0.0
    _ms: float = 0.0
    _read: int = 0
    _since: int = 0
    _light: tuple[int, float] = 0, 0.0
    _since_light: int = 0
    _saved: float = 0.0
    _owed: bool = False

    def observe(self, writing: int, read: int, ms: float) -> None:
        """A forward took so many ms that fed tokens for sessions that write, and read tokens of prefixes."""
        if read:
            if self._owed:
                self._saved -= max(0.0, ms - self._alone.at(writing))
            self._tokens = read + _FORGET * self._tokens
            self._ms = max(0.0, ms - self._alone.at(writing)) + _FORGET * self._ms
            self._read = max(read, self._read // 2)
            self._since += 1
            self._since_light += 1
            if not writing:
                self._only.observe(read, ms)
                if read <= self.least:
                    self._light, self._since_light = (read, ms), 0
        elif writing:
            self._alone.observe(writing, min(ms, _STALL * self._alone.most(writing)))
            self._since = 0
        self._owed = False

    def budget(self, writing: int) -> int:
        """Tokens that the next forward may read beside so many that it feeds for sessions that write."""
        if not writing:
            fits = self._reads(max(self.target, self.stretch * self._light[1]))
            if fits < self.most and self._since_light >= _PROBE_LIGHT - 1:
                return self.least
            # Nobody waits for a forward in which no session writes, so only its time has to be known.
            return fits if self._tokens else self.least
        if self._since >= _PROBE - 1:
            return 0
        alone, each = self._alone.at(writing), self._each(writing)
        fits = self._bounded((self._allowed(alone) - alone) / each if each > 0.0 else self.most)
        return max(self.least, min(fits, 2 * self._read))

    def spare(self, writing: int, share: float) -> int:
        """Tokens that the next forward may read for a device that has had some read, while others write.

        Over many forwards they add a share of what these take without them, whatever the tokens cost: a piece is read
        where so much time was saved, and most forwards read nothing. Ask once for each forward and such device.
        """
        alone = self._alone.at(writing)
        if not alone:
            return self.least
        self._saved = min(self._saved + share * alone, alone)
        if self._saved < 0.0:
            return 0
        self._owed = True
        return min(self.most, _PIECE)

    def beside(self, writing: int, share: float) -> int:
        """Tokens that may be read in a share, or a multiple, of the time that a forward takes without any reading."""
        each = self._each(writing)
        return int(share * self._alone.at(writing) / each) if each else self.least

    def within(self, stretch: float) -> int:
        """Tokens that a forward may read which does nothing else and takes so many times the shortest one."""
        return self._reads(stretch * self._light[1]) if self._light[1] else _PIECE

    def adds(self, writing: int, unread: int) -> float:
        """Ms that reading of so many unread tokens adds to the next forward, as far as is known."""
        if not unread:
            return 0.0
        each = self._each(writing) if writing else self._only_reading()[1]
        return min(unread, self.budget(writing)) * each

    def _each(self, writing: int) -> float:
        """Ms of a token that is read beside sessions that write."""
        if self._tokens:
            return self._ms / self._tokens
        return self._alone.at(writing) / max(1, writing)

    def _only_reading(self) -> tuple[float, float]:
        """Ms of a forward that does nothing, and of each token that it reads where no session writes."""
        if not self._only.weight:
            most = self._alone.most(0)
            return most if most < inf else 0.0, self._each(0)
        (read, ms), (least, light) = self._only.mean, self._light
        if read < _LONGER * least or not light:
            base = self._alone.at(0)
            return base, max(0.0, ms - base) / read
        each = max(0.0, ms - light) / (read - least)
        return max(0.0, light - each * least), each

    def _reads(self, ms: float) -> int:
        """Tokens that a forward may read in so many ms where no session writes."""
        base, each = self._only_reading()
        return self._bounded((ms - base) / each if each > 0.0 else self.most)

    def _bounded(self, tokens: float) -> int:
        return max(self.least, int(min(tokens, self.most)))

    def _allowed(self, alone: float) -> float:
        """Ms that the next forward may take in which sessions write."""
        if not alone:
            return self.target
        return max(min(self.target, self.stretch * alone), (1.0 + _SHARE) * alone)
