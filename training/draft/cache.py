"""States of the teacher on disk, so that only the first pass of a training costs teacher forwards."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from flexspec_mq.errors import ModelError
from training.draft.architecture import teacher_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from torch import nn

    from training.draft.rows import TextRows

BATCH_TOKENS = 2048
SLAB_ROWS = 64
KEY_BYTES = 16
_INDEX = np.dtype([("key", f"V{KEY_BYTES}"), ("first", "<i8"), ("length", "<i8")])


class StateCache:
    """Backbone outputs and final hidden states of the teacher for every token of some text.

    A row is known by its ids, so a text may grow, lose rows or change their order and keeps the states that it
    has. States are bfloat16, appended to two files; an index that is written after them says where each row's
    are. The rest that a crash leaves behind the last entry is overwritten.

    Args:
        folder: Where the files are.
        text: Rows to keep states for.
        base: Fingerprint of the teacher.
        n: Backbone layers.
        width: width of a state.

    Raises:
        ModelError: The folder holds states of another base or backbone.
    """

    def __init__(self, folder: Path, text: TextRows, *, base: str, n: int, width: int) -> None:
        self.text, self.n, self.width = text, n, width
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"format": 2, "base": base, "n": n, "width": width}
        meta = folder / "cache.json"
        if meta.exists() and json.loads(meta.read_text()) != facts:
            raise ModelError(
                f"{folder} holds states of another base, backbone or version of this package",
                hint="give another --cache folder",
            )
        meta.write_text(json.dumps(facts))
        self._backbone, self._final, self._index = (
            folder / name for name in ("backbone.bin", "final.bin", "index.bin")
        )
        for path in (self._backbone, self._final, self._index):
            path.touch()
        known = np.fromfile(self._index, dtype=_INDEX)
        self._first = {bytes(entry["key"]): int(entry["first"]) for entry in known}
        self._tokens = int((known["first"] + known["length"]).max()) if len(known) else 0
        self._entries = len(known)
        self._new: list[tuple[bytes, int, int]] = []
        self._keys = [_key(text.row(row)) for row in range(len(text))]

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Rows that are not collected yet, of those given."""
        return [row for row in rows if self._keys[row] not in self._first]

    def distinct(self, rows: Sequence[int]) -> list[int]:
        """Rows that differ from all before them: a text may have a row twice."""
        first: dict[bytes, int] = {}
        for row in rows:
            first.setdefault(self._keys[row], row)
        return list(first.values())

    def put(self, row: int, backbone: torch.Tensor, final: torch.Tensor) -> None:
        """Store the states of one row, each ``(length, width)``, rounded to bfloat16."""
        key = self._keys[row]
        if key in self._first:
            return
        for path, states in ((self._backbone, backbone), (self._final, final)):
            with path.open("r+b") as file:
                file.seek(self._tokens * self.width * 2)
                file.write(states.bfloat16().cpu().contiguous().view(torch.int16).numpy().tobytes())
        self._first[key] = self._tokens
        self._new.append((key, self._tokens, len(backbone)))
        self._tokens += len(backbone)

    def backbone(self, row: int) -> torch.Tensor:
        """Outputs of the backbone for one row, shape ``(length, width)``, bfloat16."""
        return self._read(self._backbone, row, 0, int(self.text.length[row]))

    def final(self, row: int, first: int) -> torch.Tensor:
        """Final hidden states from position ``first`` to the last but one, where the row's next ids are predicted.

        Shape ``(length - 1 - first, width)``, bfloat16.
        """
        return self._read(self._final, row, first, int(self.text.length[row]) - 1)

    def flush(self) -> None:
        """Write everything through to the disk, states before the index."""
        if not self._new:
            return
        for path in (self._backbone, self._final):
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        with self._index.open("r+b") as file:
            file.seek(self._entries * _INDEX.itemsize)
            file.write(np.array(self._new, dtype=_INDEX).tobytes())
            file.truncate()
        self._entries += len(self._new)
        self._new.clear()

    def _read(self, path: Path, row: int, start: int, stop: int) -> torch.Tensor:
        offset = (self._first[self._keys[row]] + start) * self.width * 2
        states = np.fromfile(path, dtype=np.int16, count=(stop - start) * self.width, offset=offset)
        return torch.from_numpy(states).view(torch.bfloat16).view(stop - start, self.width)


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
        on_rows: Told rows and tokens after every forward; may raise to stop: what was collected stays.
    """
    todo = cache.missing(cache.distinct(rows))
    length = cache.text.length
    for first in range(0, len(todo), SLAB_ROWS):
        slab = sorted(todo[first : first + SLAB_ROWS], key=lambda row: int(length[row]))
        try:
            _collect_slab(cache, base, slab, on_rows)
        finally:
            cache.flush()


def _collect_slab(
    cache: StateCache, base: nn.Module, slab: Sequence[int], on_rows: Callable[[int, int], None]
) -> None:
    length = cache.text.length
    for batch in batches(slab, [int(length[row]) for row in slab], BATCH_TOKENS):
        ids = torch.zeros(len(batch), int(length[batch[-1]]), dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : int(length[row])] = torch.from_numpy(cache.text.row(row))
        backbone, final = teacher_states(base, cache.n, ids)
        for i, row in enumerate(batch):
            cache.put(row, backbone[i, : int(length[row])], final[i, : int(length[row])])
        on_rows(len(batch), int(length[batch].sum()))


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


def _key(ids: npt.NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=KEY_BYTES).digest()
