"""Actions tried so far, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexspec_mq.controller.rl import ACTIONS, FEATURES
from lab.policy_training.branching import Row

Array = NDArray[np.float32]
_READING, _REMAINING = FEATURES.index("reading for own drafts"), FEATURES.index("remaining")
_HELD_OUT = 10
"""Number of episodes of which one is not trained on."""


@dataclass(slots=True)
class Samples:
    """Rows of all episodes.

    Attributes:
        numbers: (rows, features).
        seconds: (rows, actions); see `Row`.
        branched: (rows,), 1 or 0.
        episodes: (rows,), number of each row's episode.
    """

    numbers: Array
    seconds: Array
    branched: Array
    episodes: Array

    @classmethod
    def none(cls) -> Samples:
        """Before the first one."""
        wide = np.zeros((0, len(ACTIONS)), np.float32)
        one = np.zeros(0, np.float32)
        return cls(np.zeros((0, len(FEATURES)), np.float32), wide, one, one)

    def add(self, rows: Sequence[Row], episode: int) -> None:
        """Add the rows of an episode."""
        rows = [row for row in rows if min(row.seconds) > 0.0]
        if not rows:
            return
        new = (
            [row.numbers for row in rows],
            [row.seconds for row in rows],
            [float(row.branched) for row in rows],
            [float(episode)] * len(rows),
        )
        for name, values in zip(self.__slots__, new, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), np.asarray(values, np.float32)]))

    def part(self, *, held_out: bool) -> Samples:
        """Rows to train on, or the others: states at which actions parted."""
        out = self.episodes % _HELD_OUT == _HELD_OUT - 1
        # In later rows, letting the worker draft may count as having read a prompt that it had not.
        read = self.numbers[:, _READING] * np.exp(self.numbers[:, _REMAINING])
        fair = (self.branched > 0) | (read < 1.0)
        wanted = out & (self.branched > 0) if held_out else ~out & fair
        return Samples(*(getattr(self, name)[wanted] for name in self.__slots__))

    def excess(self) -> Array:
        """(rows, actions): by how much more each takes than the best, as a share of it."""
        best = self.seconds.min(axis=1, keepdims=True)
        excess: Array = self.seconds / np.maximum(best, 1e-6) - 1
        return excess
