"""What a draft would choose at each place of a text that the target wrote: first, second and third choice.

A chain is of use up to its first wrong token, and up to there its context is the text's own. So what the target
decides in any round, with leaves or without, is in these choices. Confidences behind a wrong token are those behind
the text's own token there; they only say which rows are sent in vain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import UsageError
from flexspec_mq.sampling.choose import keep
from flexspec_mq.sampling.noise import gumbel_of, words_of
from flexspec_mq.sampling.params import SamplingParams

RANKS = 3
"""Choices that are kept of each place."""
_BEFORE = 1e6
"""More than scores can differ by; of a double it leaves ten digits behind the point."""


@dataclass(frozen=True, slots=True)
class Choices:
    """One text.

    Attributes:
        row: its number in the file.
        temperature: of both models' choices.
        rank: of the target's token among the draft's choices at each place: 0 is the first; `RANKS` is none of them.
        confidence: calibrated probability that the target takes the first, 0 to 1, at each place.
    """

    row: int
    temperature: float
    rank: tuple[int, ...]
    confidence: tuple[float, ...]


def ranked(
    logits: npt.NDArray[np.float32],
    params: SamplingParams,
    position: int,
    ids: npt.NDArray[np.int64],
    count: int = RANKS,
) -> tuple[int, ...]:
    """The token that `choose` chooses, and those that it would choose without the ones before.

    Tokens that top-k or top-p leave out come behind those that they keep: the target may keep others.

    Args:
        logits: of the draft, float32 of shape [columns].
        params: temperature, top-k, top-p and seed.
        position: index of the token in prompt + text.
        ids: token id of each column, ascending.
        count: of choices, at most the columns.
    """
    scores = logits.astype(np.float64)
    if params.temperature > 0.0:
        scores /= params.temperature
        kept = keep(scores, params)
        scores += gumbel_of(words_of(params.seed, position, ids))
        if kept is not None:
            scores[kept] += _BEFORE
    likely = np.sort(np.argpartition(scores, -count)[-count:])
    order = likely[np.argsort(-scores[likely], kind="stable")]
    return tuple(int(ids[column]) for column in order)


def rank_of(token: int, choices: Sequence[int]) -> int:
    """Place of a token among the choices, or how many there are."""
    return choices.index(token) if token in choices else len(choices)


def store(path: Path, texts: Sequence[Choices], about: str) -> None:
    """Write choices for `read_choices`; `about` is all that decides them."""
    np.savez_compressed(
        path,
        about=np.array(about),
        row=np.array([text.row for text in texts]),
        temperature=np.array([text.temperature for text in texts]),
        length=np.array([len(text.rank) for text in texts]),
        rank=np.array([rank for text in texts for rank in text.rank], dtype=np.int8),
        confidence=np.array([one for text in texts for one in text.confidence]),
    )


def read_choices(path: Path, about: str) -> list[Choices]:
    """Read what `store` wrote.

    Raises:
        UsageError: it cannot be read, or is of other texts.
    """
    try:
        with np.load(path, allow_pickle=False) as kept:
            same = str(kept["about"]) == about
            names = ("row", "temperature", "length", "rank", "confidence")
            row, temperature, length, rank, confidence = (kept[name] for name in names)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"cannot read choices from {path}: {error!r}", hint="remove it, or name another file"
        ) from error
    if not same:
        raise UsageError(
            f"{path} has the choices of other texts or another draft",
            hint="give the flags that it was written with, or name another file",
        )
    ends = np.cumsum(length)
    return [
        Choices(
            int(row[text]),
            float(temperature[text]),
            tuple(int(one) for one in rank[end - length[text] : end]),
            tuple(float(one) for one in confidence[end - length[text] : end]),
        )
        for text, end in enumerate(ends)
    ]
