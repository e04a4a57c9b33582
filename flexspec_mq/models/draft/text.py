"""Rows of text that the target wrote itself: prompt and answer ids, and which rows are kept for measuring."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

HELD_OUT_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class TextRows:
    """Target-written rows, concatenated.

    Attributes:
        ids: Token ids of all rows, shape ``(tokens,)``.
        start: Offset of each row in ``ids``, and the end of the last one, shape ``(rows + 1,)``.
        prompt_len: Prompt tokens at the front of each row, shape ``(rows,)``.
        temperature: Sampling temperature of each row's answer, shape ``(rows,)``.
    """

    ids: npt.NDArray[np.integer]
    start: npt.NDArray[np.int64]
    prompt_len: npt.NDArray[np.int32]
    temperature: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.prompt_len)

    @property
    def length(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, prompt and answer."""
        return np.diff(self.start)

    @property
    def answer_len(self) -> npt.NDArray[np.int64]:
        """Answer tokens of each row: the positions that are trained and measured."""
        return self.length - self.prompt_len

    def row(self, index: int) -> npt.NDArray[np.int64]:
        """Ids of one row, shape ``(length,)``."""
        return np.asarray(self.ids[self.start[index] : self.start[index + 1]], dtype=np.int64)

    def take(self, rows: Sequence[int]) -> TextRows:
        """Some of the rows, in the given order."""
        parts = [self.row(row) for row in rows]
        chosen = np.asarray(rows, dtype=np.int64)
        return TextRows(
            ids=np.concatenate(parts),
            start=np.cumsum([0, *map(len, parts)], dtype=np.int64),
            prompt_len=self.prompt_len[chosen],
            temperature=self.temperature[chosen],
        )

    def digest(self) -> str:
        """BLAKE2b of ids and offsets: what a cache of states belongs to."""
        whole = hashlib.blake2b(np.ascontiguousarray(self.ids).tobytes(), digest_size=16)
        whole.update(np.ascontiguousarray(self.start, dtype="<i8").tobytes())
        return whole.hexdigest()

    def is_held_out(self, share: float = HELD_OUT_SHARE) -> npt.NDArray[np.bool_]:
        """Which rows are never trained on, shape ``(rows,)``.

        The prompt decides, so that one prompt answered at several temperatures is on one side only.
        """
        marks = np.zeros(len(self), dtype=np.bool_)
        for index in range(len(self)):
            prompt = self.row(index)[: self.prompt_len[index]].astype("<i8").tobytes()
            bits = int.from_bytes(hashlib.blake2b(prompt, digest_size=8).digest(), "big")
            marks[index] = bits < share * 2**64
        return marks


def load_text(path: Path) -> TextRows:
    """Read rows from an ``.npz`` file with ``ids``, ``start``, ``prompt_len`` and ``temperature``.

    ``start`` may leave out the end of the last row. Rows without a prompt or an answer are an error.

    Raises:
        ModelError: The file cannot be read or its arrays do not belong together.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids, prompt_len, temperature = arrays["ids"], arrays["prompt_len"], arrays["temperature"]
            start = np.asarray(arrays["start"], dtype=np.int64)
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        message = f"cannot read target-written text from {path}: {error}"
        hint = "expected an .npz file with ids, start, prompt_len and temperature"
        raise ModelError(message, hint=hint) from error
    if len(start) == len(prompt_len):
        start = np.append(start, len(ids))
    rows = TextRows(ids, start, prompt_len, temperature)
    if len(start) != len(prompt_len) + 1 or len(temperature) != len(prompt_len) or start[-1] > len(ids):
        raise ModelError(f"{path}: start, prompt_len and temperature do not describe the same rows")
    if len(rows) == 0 or rows.prompt_len.min() < 1 or rows.answer_len.min() < 1:
        raise ModelError(f"{path}: every row needs a prompt and an answer")
    return rows


def save_text(path: Path, rows: TextRows) -> None:
    """Write rows as ``load_text`` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path, ids=rows.ids, start=rows.start, prompt_len=rows.prompt_len, temperature=rows.temperature
    )
