"""How fast one thread reads memory."""

from __future__ import annotations

import mmap

import numpy as np
import torch

from lab.benchmarks.peers.interface import Stopwatch

_COLUMNS = 4096


class Memory:
    """A large array in memory, in huge pages where the system gives them.

    Args:
        size: bytes, a multiple of a row's.
    """

    def __init__(self, size: int = 2**30) -> None:
        self._size = size
        torch.set_num_threads(1)
        self._map = mmap.mmap(-1, size)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        values = np.frombuffer(self._map, np.float32)
        values[:] = 1.0
        self._rows = torch.from_numpy(values).view(-1, _COLUMNS)
        self._ones = torch.ones(_COLUMNS)

    def speed(self) -> float:
        """GB a second: the faster of a matrix-vector product and a dot product, each over the whole array."""
        flat = self._rows.view(-1)
        return self._size / 1e9 / min(_seconds(self._rows, self._ones), _seconds(flat, flat))


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    """By whichever clock says less: what the processor did meanwhile for others is not the memory's."""
    watch = Stopwatch()
    left @ right
    return min(watch.stop()) / 1e3
