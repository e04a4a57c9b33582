"""States of the teacher on disk, so that only the first pass of a training costs teacher forwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from flexspec_mq.errors import ModelError
from flexspec_mq.models.draft.architecture import teacher_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from flexspec_mq.models.draft.text import TextRows

_Mapped: TypeAlias = "np.memmap[tuple[int, ...], np.dtype[np.generic]]"

BATCH_TOKENS = 2048
SLAB_ROWS = 64


class StateCache:
    """Backbone outputs and final hidden states of the teacher for every token of some text.

    Memory-mapped bfloat16 files, addressed by the text's own offsets; rows are filled in any order and marked
    when they are complete, so that collecting can stop and go on at any row.

    Raises:
        ModelError: The folder holds states of another base, text or backbone.
    """

    def __init__(self, folder: Path, text: TextRows, *, base: str, n: int, width: int) -> None:
        self.text, self.n, self.width = text, n, width
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"format": 1, "base": base, "text": text.digest(), "n": n, "width": width}
        meta = folder / "cache.json"
        if meta.exists() and json.loads(meta.read_text()) != facts:
            raise ModelError(
                f"{folder} holds states of another base, text or backbone", hint="give another --cache folder"
            )
        shape = (int(text.start[-1]), width)
        self._backbone = _open(folder / "backbone.bin", np.dtype(np.int16), shape)
        self._final = _open(folder / "final.bin", np.dtype(np.int16), shape)
        self._done = _open(folder / "done.bin", np.dtype(np.uint8), (len(text),))
        meta.write_text(json.dumps(facts))

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that are not collected yet."""
        return [row for row in rows if not self._done[row]]

    def put(self, row: int, backbone: torch.Tensor, final: torch.Tensor) -> None:
        """Store the states of one row, each ``(length, width)``, rounded to bfloat16."""
        span = slice(int(self.text.start[row]), int(self.text.start[row + 1]))
        self._backbone[span] = backbone.bfloat16().contiguous().view(torch.int16).numpy()
        self._final[span] = final.bfloat16().contiguous().view(torch.int16).numpy()
        self._done[row] = 1

    def backbone(self, row: int) -> torch.Tensor:
        """Outputs of the backbone for one row, shape ``(length, width)``, bfloat16."""
        return _read(self._backbone, int(self.text.start[row]), int(self.text.start[row + 1]))

    def final(self, row: int, first: int) -> torch.Tensor:
        """Final hidden states from position ``first`` to the last but one, where the row's next ids are predicted.

        Shape ``(length - 1 - first, width)``, bfloat16.
        """
        return _read(self._final, int(self.text.start[row]) + first, int(self.text.start[row + 1]) - 1)

    def flush(self) -> None:
        """Write everything through to the disk, states before marks."""
        for array in (self._backbone, self._final, self._done):
            array.flush()


def collect(
    cache: StateCache,
    base: nn.Module,
    rows: Sequence[int],
    on_rows: Callable[[int, int], None] = lambda _rows, _tokens: None,
) -> None:
    """Fill the cache for the rows that it lacks.

    Args:
        cache: Where to put the states.
        base: The teacher.
        rows: Indices of rows, most wanted first.
        on_rows: Told rows and tokens after every forward; may raise to stop.
    """
    todo = cache.missing(rows)
    length = cache.text.length
    for first in range(0, len(todo), SLAB_ROWS):
        slab = sorted(todo[first : first + SLAB_ROWS], key=lambda row: int(length[row]))
        for batch in batches(slab, [int(length[row]) for row in slab], BATCH_TOKENS):
            ids = torch.zeros(len(batch), int(length[batch[-1]]), dtype=torch.long)
            for i, row in enumerate(batch):
                ids[i, : int(length[row])] = torch.from_numpy(cache.text.row(row))
            backbone, final = teacher_states(base, cache.n, ids)
            for i, row in enumerate(batch):
                cache.put(row, backbone[i, : int(length[row])], final[i, : int(length[row])])
            on_rows(len(batch), int(length[batch].sum()))
    cache.flush()


def batches(rows: Sequence[int], sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Cut rows, in order, into groups whose sizes add up to ``limit`` at most; a larger row stands alone."""
    groups: list[list[int]] = []
    total = limit
    for row, size in zip(rows, sizes, strict=True):
        if total + size > limit:
            groups.append([])
            total = 0
        groups[-1].append(row)
        total += size
    return groups


def _open(path: Path, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> _Mapped:
    mode = "r+" if path.exists() else "w+"
    return np.memmap(path, dtype=dtype, mode=mode, shape=shape)  # type: ignore[call-overload, no-any-return]


def _read(array: _Mapped, start: int, stop: int) -> torch.Tensor:
    return torch.from_numpy(np.array(array[start:stop], dtype=np.int16)).view(torch.bfloat16)
