"""How many tokens of unread prefixes the next forward reads, by session: devices first, then the sessions of each.

A device that begins is read at once. Devices with the least prefill usage lately come first, in steps of
`device_prefill`, and in each step those that wait longest, so that nobody waits for ever behind newcomers. A device
that has had much more read lately than the others that are here gets a share of the time while these write, the less
the more it had; and where nobody writes yet, devices that had less go first. Its prefixes are then read one after the
other, as small pieces of several cost more than one piece.

Pure: it is told the time and what forwards take, and measures nothing.
"""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING, TypeVar

from flexspec_mq.protocol.worker.turns import by_device
from flexspec_mq.scheduling.fair_shares import LATELY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.scheduling.prefill_budget import PrefillBudget

_Key = TypeVar("_Key")

_QUANTUM = 16
"""Tokens: smaller pieces of a prefix cost nearly as much as these."""
_BEGIN = 40
"""Tokens that are read at once, beside others that write, for a device that begins: a short prompt."""
DEVICE_PREFILL = 256
"""Tokens of prompts that a device may have had read lately at full speed while others write."""
_MORE = 1.5
"""Or so many times what the others that are here had in the mean, if that is more."""
DEVICE_PREFILL_SHARE = 0.1
"""Share that reading for one device may add, beyond these, to forwards in which others write."""
_MUCH, _LESS = 3, 2 / 3
"""Beyond so many times what it may have it is so much of that share."""
_PAGES = 4
"""Times `device_prefill` that one may have had read lately before it is read in short forwards where nobody else has
work, but had lately: until then they would cost that device more than they spare another one that comes."""
_SHORT = 1.8
"""Such a forward takes so many times what one takes that hardly reads."""
_RARELY = 4
"""Where nobody writes and others begin, one forward in so many reads for it as well."""
_KEEPS = 10.0
"""Seconds after which a third is left of what is remembered of a device's reading."""
_MOST = 4096


class PrefillUsage:
    """Tokens of prompts that each device has had read lately. Calls take `now` in seconds."""

    def __init__(self) -> None:
        self._usage: dict[str, tuple[float, float]] = {}

    def tokens(self, edge: str, now: float) -> float:
        """Tokens of a device; those that were read longer ago count less."""
        tokens, at = self._usage.get(edge, (0.0, now))
        return tokens * exp((at - now) / _KEEPS)

    def add(self, edge: str, tokens: int, now: float) -> None:
        """So many were read."""
        total = self.tokens(edge, now) + tokens
        self._usage.pop(edge, None)
        self._usage[edge] = total, now
        if len(self._usage) > _MOST:
            del self._usage[next(iter(self._usage))]


class PrefillShares:
    """Divides what a forward may read: `most` tokens, or what the budget says; see `device_prefill` of the settings.

    Attributes:
        usage: Prefill usage of the devices; told what is read.
        slowed: tokens of the newest forward that are read for devices which get such a share.
    """

    def __init__(
        self,
        most: int,
        budget: PrefillBudget | None,
        *,
        device: int = DEVICE_PREFILL,
        share: float = DEVICE_PREFILL_SHARE,
    ) -> None:
        self.usage = PrefillUsage()
        self.slowed = 0
        self._most = most
        self._budget = budget
        self._device = device
        self._share = share

    def most(self, writing: int) -> int:
        """Tokens that the next forward may read for all, beside so many that it feeds for sessions that write."""
        return self._most if self._budget is None else self._budget.budget(writing)

    def allot(
        self,
        unread: Mapping[SessionKey, int],
        ready: Mapping[SessionKey, int],
        *,
        now: float,
        away: float,
        turn: int,
    ) -> dict[SessionKey, int]:
        """Tokens of each prefix.

        Args:
            unread: how many tokens each session can use, the one that was served longest ago first.
            ready: tokens that sessions which write feed into the forward.
            now: seconds.
            away: seconds since any device had work that has none now.
            turn: number of the forward.
        """
        by_edge: dict[str, dict[SessionKey, int]] = {}
        for key in by_device(unread):
            by_edge.setdefault(key[0], {})[key] = unread[key]
        writers = {edge for edge, _ in ready}
        writing = sum(ready.values())
        usage = {edge: self.usage.tokens(edge, now) for edge in [*by_edge, *writers - by_edge.keys()]}
        may = {edge: self._may(edge, usage) for edge in by_edge}
        slowed = {edge for edge in by_edge if usage[edge] > may[edge]}
        budget = self.most(writing)
        if not ready and len(by_edge) == 1 and away <= LATELY:
            (used,) = (usage[edge] for edge in by_edge)
            if used > _PAGES * self._device:
                budget = min(budget, self._short())
        in_turn = sorted(by_edge, key=lambda edge: usage[edge] // max(1, self._device))
        free = {edge: sum(by_edge[edge].values()) for edge in in_turn if edge not in slowed}
        if writers:
            begin = max(self._device, sum(usage[edge] for edge in writers) / len(writers))
            if new := {edge for edge in free.keys() - writers if usage[edge] <= begin}:
                budget = max(budget, self._beginning(writing, len(new), len(writers)))
        shares: dict[SessionKey, int] = {}
        for edge, share in divide(budget, free).items():
            shares |= divide(share, by_edge[edge])
        at_full_speed = sum(shares.values())
        for edge in in_turn:
            if edge not in slowed:
                continue
            if writers - {edge}:
                less = _LESS if usage[edge] > _MUCH * may[edge] else 1.0
                piece = self._spare(writing, less * self._share)
            else:
                piece = 0 if turn % _RARELY else _QUANTUM
            shares |= _fill(min(budget - sum(shares.values()), piece), by_edge[edge])
        self.slowed = sum(shares.values()) - at_full_speed
        return shares

    def _may(self, edge: str, usage: Mapping[str, float]) -> float:
        """Tokens that a device may have had read lately before it gets a share of the time only."""
        others = len(usage) - 1
        return max(self._device, _MORE * (sum(usage.values()) - usage[edge]) / others) if others else inf

    def _beginning(self, writing: int, new: int, writers: int) -> int:
        """Tokens that are read for devices that begin beside others that write: time is equal by device."""
        if self._budget is None:
            return 0
        least = _QUANTUM * new if new >= writers else 0
        return min(self._budget.most, _BEGIN * new, max(least, self._budget.beside(writing, new / writers)))

    def _short(self) -> int:
        """Tokens that may be read at a time so that one who comes next waits for no long forward."""
        return self._most if self._budget is None else self._budget.within(_SHORT)

    def _spare(self, writing: int, share: float) -> int:
        return self._most if self._budget is None else self._budget.spare(writing, share)


def divide(budget: int, unread: Mapping[_Key, int]) -> dict[_Key, int]:
    """Equal shares of a budget, none below the quantum but the last; the first is served first and gets the rest."""
    shares: dict[_Key, int] = {}
    left = budget
    for place, (key, most) in enumerate(unread.items()):
        # Two tokens are the least that makes progress on an unread prefix.
        if left < 2:
            break
        shares[key] = min(most, left, max(_QUANTUM, left // (len(unread) - place)))
        left -= shares[key]
    for key, share in shares.items():
        more = min(left, unread[key] - share)
        shares[key] += more
        left -= more
    return shares


def _fill(budget: int, unread: Mapping[_Key, int]) -> dict[_Key, int]:
    """All that the first can use, then the next."""
    shares: dict[_Key, int] = {}
    for key, most in unread.items():
        if budget < 2:
            break
        shares[key] = min(most, budget)
        budget -= shares[key]
    return shares
