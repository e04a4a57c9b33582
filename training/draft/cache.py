"""States of the teacher on disk, so that only the first pass of a training costs teacher forwards."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError
from training.draft.architecture import teacher_states
from training.draft.rows import TextRows

BATCH_TOKENS = 2048
SLAB_ROWS = 64
KEY_BYTES = 16


class StateCache:
    """Backbone outputs and final hidden states of the teacher for every token of some text.

    A row is known by its ids, so a text may grow, lose rows or change their order and keeps the states that it
    has. Each row has a file, which appears whole: both kinds of states, bfloat16 of shape ``(2, length, width)``.

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
        facts = {"format": 3, "base": base, "n": n, "width": width}
        meta = folder / "cache.json"
        if meta.exists() and json.loads(meta.read_text()) != facts:
            raise ModelError(
                f"{folder} holds states of another base, backbone or version of this package",
                hint="give another --cache folder",
            )
        meta.write_text(json.dumps(facts))
        self._folder = folder
        self._had = {path.stem for path in folder.glob("*.npy")}
        self._keys = [_key(text.row(row)) for row in range(len(text))]

    def missing(self, rows: Sequence[int]) -> list[int]:
        """Rows that are not collected yet, of those given."""
        return [row for row in rows if self._keys[row] not in self._had]

    def distinct(self, rows: Sequence[int]) -> list[int]:
        """Rows that differ from all before them: a text may have a row twice."""
        first: dict[str, int] = {}
        for row in rows:
            first.setdefault(self._keys[row], row)
        return list(first.values())

    def put(self, row: int, backbone: torch.Tensor, final: torch.Tensor) -> None:
        """Store the states of one row, each ``(length, width)``, rounded to bfloat16."""
        states = torch.stack((backbone, final)).bfloat16().cpu().view(torch.int16).numpy()
        with whole(self._path(row)) as part, part.open("wb") as file:
            np.save(file, states)
        self._had.add(self._keys[row])

    def backbone(self, row: int) -> torch.Tensor:
        """Outputs of the backbone for one row, shape ``(length, width)``, bfloat16."""
        return self._read(row, 0, 0, None)

    def final(self, row: int, first: int) -> torch.Tensor:
        """Final hidden states from position ``first`` to the last but one, where the row's next ids are predicted.

        Shape ``(length - 1 - first, width)``, bfloat16.
        """
        return self._read(row, 1, first, -1)

    def _path(self, row: int) -> Path:
        return self._folder / f"{self._keys[row]}.npy"

    def _read(self, row: int, kind: int, start: int, stop: int | None) -> torch.Tensor:
        states = np.load(self._path(row), mmap_mode="r")[kind, start:stop]
        return torch.from_numpy(np.array(states)).view(torch.bfloat16)


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
        _collect_slab(cache, base, slab, on_rows)


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


def _key(ids: npt.NDArray[np.int64]) -> str:
    return hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=KEY_BYTES).hexdigest()
