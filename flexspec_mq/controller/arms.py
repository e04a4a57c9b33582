"""Which of some ways to go on is fastest, learned by trying them: discounted UCB over seconds of a token."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

_KEEPS = 0.98
"""Weight of earlier pulls when one more is made: about fifty count, so that what has changed is tried again."""
_SPREAD = 0.35
"""How far the tokens per second of one pull lie from their mean, as a share of it; drafts come in runs."""
_WIDTH = 1.0
"""How many of these an arm that was hardly tried is given credit for."""


@dataclass(slots=True)
class _Arm:
    pulls: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0


class Arms:
    """What was seen of each arm (A. Garivier and E. Moulines, On upper-confidence bound policies, 2011).

    An arm's value is the tokens of all its pulls over their seconds, so that long pulls count as such.
    """

    def __init__(self) -> None:
        self._arms: dict[Hashable, _Arm] = {}

    def pulled(self, name: Hashable, tokens: int, seconds: float) -> None:
        """An arm gave so many tokens in so many seconds."""
        for arm in self._arms.values():
            arm.pulls *= _KEEPS
            arm.tokens *= _KEEPS
            arm.seconds *= _KEEPS
        arm = self._arms.setdefault(name, _Arm())
        arm.pulls += 1.0
        arm.tokens += tokens
        arm.seconds += seconds

    def rate(self, name: Hashable) -> float | None:
        """Tokens per second of an arm; None before it was tried."""
        arm = self._arms.get(name)
        return None if arm is None or not arm.seconds else arm.tokens / arm.seconds

    def best(self, names: Collection[Hashable]) -> Hashable:
        """The arm to pull next, of some; those that were never pulled come first, in their order."""
        total = sum(arm.pulls for arm in self._arms.values())
        return max(names, key=lambda name: self._bound(name, total))

    def _bound(self, name: Hashable, total: float) -> float:
        arm = self._arms.get(name)
        if arm is None or arm.pulls <= 0.0 or arm.seconds <= 0.0:
            return inf
        wide = _WIDTH * _SPREAD * sqrt(log(1.0 + total) / arm.pulls)
        return arm.tokens / arm.seconds * (1.0 + wide)
