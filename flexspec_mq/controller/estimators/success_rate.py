"""Which drafted tokens are right: a share of tries, and one for each place in a batch."""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from flexspec_mq.controller.observation import PLACES, UNTRIED

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRIOR = 2.0
"""Tries that the share counts for, before any, of which nothing is known."""
_POOLED = 8.0
"""Tries of its own at which a place counts as much as all places together."""
_FADES = 0.98
"""Weight of earlier batches when one more is judged: about 50 count."""
_LIFE = 600.0
"""Seconds in which what is known fades to 1/e: another text is another matter."""
_CARRIED = 12.0
"""Tries that all that is known counts for when another text begins, half of it what is usual over texts."""
_KEEPS = 1.0 - 1.0 / 2000.0
"""Weight of earlier tries in what is usual when there is one more: about 2,000 count."""


class SuccessRate:
    """Right ones among tries, older ones counting less.

    Args:
        memory: tries that count.

    Attributes:
        mean: None before a try.
        known: tries that count.
    """

    __slots__ = ("_at", "_keep", "_right", "known", "mean")

    def __init__(self, memory: float = 50.0) -> None:
        self._keep = 1.0 - 1.0 / memory
        self._at = 0.0
        self._right = 0.0
        self.known = 0.0
        self.mean: float | None = None

    def update(self, right: int, tried: int, now: float) -> None:
        """So many were tried, at least one, of which so many were right."""
        passed, self._at = now - self._at, now
        keep: float = self._keep**tried
        if passed > 0.0:
            keep *= exp(-passed / _LIFE)
        self._right = keep * self._right + right
        self.known = keep * self.known + tried
        self.mean = (self._right + _PRIOR * UNTRIED) / (self.known + _PRIOR)


class Acceptance:
    """Probability that the i-th token of a batch is right, given that all before it are.

    A place that was seldom tried leans on all places together. Another text may be another matter: it begins half way
    to what is usual, so that one for which nobody drafts any more says little about the next.

    Attributes:
        places: rate of each place; the last one stands for all that follow.
        known: tries of each place that count.
    """

    __slots__ = ("_at", "_known", "_right", "_texts", "known", "places")

    def __init__(self) -> None:
        self._at = 0.0
        self._known = [0.0] * PLACES
        self._right = [0.0] * PLACES
        self._texts = 0.0, 0.0  # tries over many texts, all and right
        self.places = (UNTRIED,) * PLACES
        self.known = (0.0,) * PLACES

    def begins(self) -> None:
        """Another text begins."""
        tried, rights, (all_tried, all_right) = sum(self._known), sum(self._right), self._texts
        if not tried:
            return
        usual = (all_right + _PRIOR * UNTRIED) / (all_tried + _PRIOR)
        carried, half_way = min(1.0, _CARRIED / tried), (rights / tried + usual) / 2
        for place, known in enumerate(self._known):
            # Where nothing was right lately, nothing tells places apart.
            share = self._right[place] / rights * tried if rights else known
            self._known[place] = carried * known
            self._right[place] = carried * min(known, half_way * share)
        self._lean(sum(self._right), sum(self._known))

    def judged(self, batches: Sequence[tuple[int, int]], now: float, *, wrong: bool) -> None:
        """Drafted tokens were compared with what the target decided.

        Args:
            batches: place of the first one in its batch, from 0, and their number, for each batch.
            now: seconds.
            wrong: whether the last one of all was.
        """
        passed, self._at = now - self._at, now
        fades = exp(-passed / _LIFE) if passed > 0.0 else 1.0
        known, right, tried, rights, count, last = self._known, self._right, 0.0, 0.0, 0, 0
        for place in range(PLACES):
            known[place] *= _FADES * fades
            right[place] *= _FADES * fades
            tried += known[place]
            rights += right[place]
        for first, many in batches:
            count += many
            for place in range(first, first + many):
                last = place if place < PLACES else PLACES - 1
                known[last] += 1.0
                right[last] += 1.0
        right[last] -= wrong
        keep = _KEEPS**count
        self._texts = keep * self._texts[0] + count, keep * self._texts[1] + count - wrong
        self._lean(rights + count - wrong, tried + count)

    def _lean(self, rights: float, tried: float) -> None:
        """Each place leans on all together."""
        known, right = self._known, self._right
        leaning = _POOLED * (rights + _PRIOR * UNTRIED) / (tried + _PRIOR)
        places = []
        for place in range(PLACES):
            places.append((right[place] + leaning) / (known[place] + _POOLED))  # noqa: PERF401  a call less
        self.places, self.known = tuple(places), tuple(known)
