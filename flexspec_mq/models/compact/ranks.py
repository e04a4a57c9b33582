"""Which token ids a trimmed LM head keeps: the most frequent ones of the draft's training text (FR-Spec).

Lossless, since the target verifies; what the head cannot say is only never drafted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

RANKS = "token_ranks.npy"
"""File of a draft's folder: int32 token ids by falling frequency, each at most once; rare ones may be left out."""

Ids = npt.NDArray[np.int64]


def read_ranks(folder: Path, vocab_size: int) -> Ids | None:
    """The ids by falling frequency; None when the draft does not say.

    Raises:
        ModelError: the file is damaged or of another vocabulary.
    """
    path = folder / RANKS
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"cannot read {path}: {error}", hint="export the draft again") from error
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer) or not len(found):
        raise ModelError(f"{path} is no list of token ids", hint="export the draft again")
    ranks: Ids = found.astype(np.int64)
    if ranks.min() < 0 or ranks.max() >= vocab_size or len(np.unique(ranks)) != len(ranks):
        raise ModelError(
            f"{path} does not belong to a vocabulary of {vocab_size} tokens", hint="export the draft again"
        )
    return ranks


def frequent(ranks: Ids, count: int, always: Iterable[int]) -> Ids:
    """The ids that a head of about `count` keeps, ascending.

    Args:
        ranks: ids by falling frequency; when there are fewer than `count`, all of them are kept.
        count: how many.
        always: kept besides, such as the ends of a text.
    """
    return np.union1d(ranks[:count], np.fromiter(always, dtype=np.int64))


def share_outside(texts: Iterable[Sequence[int]], ids: Ids) -> float:
    """The share of a text's tokens that a head with these ids can never draft.

    Args:
        texts: token ids, text by text; what the target writes is what counts.
        ids: of the head, ascending.

    Returns:
        0 to 1; 0 for no tokens at all.
    """
    tokens = outside = 0
    for text in texts:
        found = np.asarray(text, dtype=np.int64)
        tokens += len(found)
        outside += len(found) - int(np.isin(found, ids).sum())
    return outside / tokens if tokens else 0.0
