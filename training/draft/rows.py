"""Rows of text that the target wrote itself: prompt and answer ids, and which rows are kept for measuring."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError

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


def load_rows(*paths: Path) -> TextRows:
    """Read and join the rows of ``.npz`` files with ``ids``, ``start``, ``prompt_len`` and ``temperature``.

    ``start`` may leave out the end of the last row. Rows without a prompt or an answer are an error.

    Args:
        paths: At least one file.

    Raises:
        ModelError: A file cannot be read or its arrays do not belong together.
    """
    return concat([_load(path) for path in paths])


def _load(path: Path) -> TextRows:
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


def save_rows(path: Path, rows: TextRows) -> None:
    """Write rows as ``load_rows`` reads them; replaces the file atomically."""
    arrays = {name: getattr(rows, name) for name in ("ids", "start", "prompt_len", "temperature")}
    with whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def make_rows(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], temperatures: Sequence[float]
) -> TextRows:
    """Rows from lists of ids; one temperature for each."""
    whole = [np.asarray([*prompt, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = np.concatenate(whole) if whole else np.zeros(0, dtype=np.int64)
    narrow = np.uint16 if not len(ids) or ids.max() < 2**16 else np.int32
    return TextRows(
        ids=ids.astype(narrow),
        start=np.cumsum([0, *map(len, whole)], dtype=np.int64),
        prompt_len=np.asarray([len(prompt) for prompt in prompts], dtype=np.int32),
        temperature=np.asarray(temperatures, dtype=np.float32),
    )


def concat(parts: Sequence[TextRows]) -> TextRows:
    """All rows of several texts, in order; at least one text. A single one comes back as it is."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0, *(part.start[-1] for part in parts)])
    starts = [part.start[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return TextRows(
        ids=np.concatenate([part.ids[: part.start[-1]] for part in parts]),
        start=np.concatenate([*starts, ends[-1:]]).astype(np.int64),
        prompt_len=np.concatenate([part.prompt_len for part in parts]),
        temperature=np.concatenate([part.temperature for part in parts]),
    )


def token_ranks(text: TextRows, rows: Sequence[int], first: Sequence[int]) -> npt.NDArray[np.int32]:
    """Ids of a text by how much a draft needs them: ``first``, then by falling frequency in the answers.

    Ids that only prompts have come last, by their frequency there; equal ones by number. Ids that the text
    has not are left out.

    Args:
        text: Target-written rows.
        rows: Rows that count.
        first: Ids that come first whatever their frequency: the ends of a text and other special ones.
    """
    answers = [text.row(row)[text.prompt_len[row] :] for row in rows]
    prompts = [text.row(row)[: text.prompt_len[row]] for row in rows]
    size = 1 + max([0, *(int(part.max()) for part in (*answers, *prompts) if len(part)), *first])
    none = np.zeros(0, dtype=np.int64)
    in_answers, in_prompts = (
        np.bincount(np.concatenate([none, *some]), minlength=size) for some in (answers, prompts)
    )
    # The most significant key is the last one.
    order = np.lexsort((np.arange(size), -in_prompts, -in_answers))
    leading = dict.fromkeys(first)
    rest = [int(i) for i in order if (in_answers[i] or in_prompts[i]) and int(i) not in leading]
    return np.asarray([*leading, *rest], dtype=np.int32)
