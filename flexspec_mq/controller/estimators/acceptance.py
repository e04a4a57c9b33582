"""Acceptance of drafted tokens, by their place in a batch."""

from collections.abc import Sequence
from math import exp

from flexspec_mq.controller.observation import PLACES, UNTRIED

_PRIOR = 2.0
"""Tries that the share counts for, before any, of which nothing is known."""
_POOLED = 8.0
"""Tries of its own at which a place counts as much as all places together."""
_FADES = 0.98
"""Weight of earlier batches when one more is judged: about 50 count."""
_FADE = 600.0
"""Seconds in which what is known fades to 1/e: another text is another matter."""


class Acceptance:
    """Probability that the i-th token of a batch is right, given that all before it are.

    A place that was seldom tried leans on all places together.

    Attributes:
        places: rate of each place; the last one stands for all that follow.
        known: tries of each place that count.
    """

    __slots__ = ("_at", "_known", "_right", "known", "places")

    def __init__(self) -> None:
        self._at = 0.0
        self._known = [0.0] * PLACES
        self._right = [0.0] * PLACES
        self.places = (UNTRIED,) * PLACES
        self.known = (0.0,) * PLACES

    def judged(self, batches: Sequence[tuple[int, int]], now: float, *, wrong: float) -> None:
        """Drafted tokens were compared with what the target decided.

        Args:
            batches: place of the first one in its batch, from 0, and their number, for each batch.
            now: seconds.
            wrong: 1 if the last one of all was, or how likely that is of one that nobody compared.
        """
        passed, self._at = now - self._at, now
        fades = exp(-passed / _FADE) if passed > 0.0 else 1.0
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
        # Each place leans on all together.
        leaning = _POOLED * (rights + count - wrong + _PRIOR * UNTRIED) / (tried + count + _PRIOR)
        places = []
        for place in range(PLACES):
            places.append((right[place] + leaning) / (known[place] + _POOLED))  # noqa: PERF401  a call less
        self.places, self.known = tuple(places), tuple(known)
