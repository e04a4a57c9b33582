"""Token ids that a trimmed LM head keeps."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError

RANKS = "token_ranks.npy"
"""File of a draft's folder: int32 token ids by falling frequency, each at most once; rare ones may be left out."""

Ids = npt.NDArray[np.int64]
AUTO_IDS = 16_384
"""Ids that a head keeps when nobody says how many."""


def head_ids(folder: Path, vocab_size: int, eos: Sequence[int], count: int | None) -> Ids | None:
    """The ids that a head keeps, ascending; None when they are all.

    Raises:
        ModelError: a number of ids is wanted of a draft that does not say which are frequent, or says it wrongly.
    """
    if count == 0:
        return None
    ranks = read_ranks(folder, vocab_size)
    if ranks is None:
        if count is None:
            return None
        raise ModelError(
            f"{folder} has no {RANKS}, so nobody knows which {count} ids are frequent",
            hint="--ids 0 keeps all; a draft that was trained brings the file",
        )
    ids = frequent(ranks, AUTO_IDS if count is None else count, eos)
    return ids if len(ids) < vocab_size else None


def read_ranks(folder: Path, vocab_size: int) -> Ids | None:
    """The ids by falling frequency; None when the draft does not say.

    Raises:
        ModelError: the file is damaged or of another vocabulary.
    """
    path = folder / RANKS
    if not path.is_file():
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint="export the draft again") from error
    if loaded.ndim != 1 or not np.issubdtype(loaded.dtype, np.integer) or not len(loaded):
        raise ModelError(f"{path} is no list of token ids", hint="export the draft again")
    ranks: Ids = loaded.astype(np.int64)
    if ranks.min() < 0 or ranks.max() >= vocab_size or len(np.unique(ranks)) != len(ranks):
        raise ModelError(
            f"{path} does not belong to a vocabulary of {vocab_size} tokens", hint="export the draft again"
        )
    return ranks


def frequent(ranks: Ids, count: int, always: Iterable[int]) -> Ids:
    """The ids that a head keeps, ascending: the first `count` of those by falling frequency, and some always."""
    return np.union1d(ranks[:count], np.fromiter(always, dtype=np.int64))
