"""A guess's distribution as it travels: 16 bits a probability.

What the target compares with must be what the guess was drawn from, or the text would not have the target's
distribution. So the device rounds first, and draws from what the other side will read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lab.bench.traditional.rejection import Floats

Halves = npt.NDArray[np.float16]
Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """One guess's distribution.

    Attributes:
        halves: float16 of shape [count], in proportion to the probabilities.
        ids: uint32 of shape [count], ascending; None when they are all ids.
    """

    halves: Halves
    ids: Ids | None = None

    def spread(self, vocab_size: int) -> Floats:
        """What both sides take it for: float64 of shape [vocab_size], summing to 1."""
        found = np.zeros(vocab_size)
        found[slice(None) if self.ids is None else self.ids] = self.halves
        found /= found.sum()
        return found


def send_all(q: Floats, ids: npt.NDArray[np.int64] | None, vocab_size: int) -> Sent:
    """All of a distribution.

    Args:
        q: float64 of shape [columns], summing to 1.
        ids: token id of each column; None when they are all ids.
        vocab_size: ids that there are; those without a column have no probability.
    """
    halves = np.zeros(vocab_size, dtype=np.float16)
    halves[slice(None) if ids is None else ids] = q
    return Sent(halves)


def send_top(q: Floats, ids: npt.NDArray[np.int64] | None, count: int) -> Sent:
    """The most likely tokens of a distribution; as `send_all`, with at most `count` of them."""
    count = min(count, len(q))
    columns = np.sort(np.argpartition(q, -count)[-count:])
    return Sent(q[columns].astype(np.float16), (columns if ids is None else ids[columns]).astype(np.uint32))
