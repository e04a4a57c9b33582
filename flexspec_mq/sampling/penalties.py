"""Logits as penalties and a bias leave them: a pure function of logits, parameters and the tokens before.

In vLLM's order, each in float32: the bias is added; logits of tokens of prompt and text are divided by the repetition
penalty where they are positive, and else multiplied by it; then the frequency penalty times the token's count in the
text goes off, and the presence penalty where the text has the token at all. Whatever tokens a grammar forbids, and how
one is chosen then, does not depend on it. Only tokens that were named or stand before change, so nothing here is of
the size of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from schemas.messages import Sampling

_Ids = npt.NDArray[np.int64]
_Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Penalties:
    """The change of the logits of a text's rows: of the one behind its tokens, and of that behind each drafted one.

    Attributes:
        params: sampling parameters of the text.
        ids: token ids whose logits change, ascending, int64 [n].
        counts: how often the text has each before each row, int64 [rows, n].
        repeated: whether prompt or text have it there, bool [rows, n].
        bias: added to its logit, float32 [n].
    """

    params: Sampling
    ids: _Ids
    counts: _Ids
    repeated: npt.NDArray[np.bool_]
    bias: _Logits

    def of(self, logits: _Logits) -> _Logits:
        """The changed logits of `ids` from their own; float32 [rows, n]."""
        params, changed = self.params, logits + self.bias
        if params.repetition_penalty != 1.0:
            factor = np.float32(params.repetition_penalty)
            scaled = np.where(changed > 0, changed / factor, changed * factor)
            changed = np.where(self.repeated, scaled, changed)
        changed = changed - np.float32(params.frequency_penalty) * self.counts.astype(np.float32)
        return changed - np.float32(params.presence_penalty) * (self.counts > 0).astype(np.float32)

    def apply(self, logits: _Logits, columns: _Ids) -> None:
        """Change a single row in place.

        Args:
            logits: float32 [columns].
            columns: token id of each, in any order.
        """
        order = np.argsort(columns, kind="stable")
        at = np.minimum(np.searchsorted(columns[order], self.ids), len(columns) - 1)
        known = columns[order[at]] == self.ids
        whole = np.zeros((1, len(self.ids)), np.float32)
        whole[0, known] = logits[order[at[known]]]
        logits[order[at[known]]] = self.of(whole)[0, known]


def penalties(
    params: Sampling, prompt: Sequence[int], written: Sequence[int], draft: Sequence[int] = ()
) -> Penalties:
    """The change of the rows behind a prompt, a part of its text, and each token that is drafted behind that.

    Args:
        params: sampling parameters of the text.
        prompt: token ids of its prompt; they count for the repetition penalty alone.
        written: token ids of the text.
        draft: token ids that follow.
    """
    told = prompt if params.repetition_penalty != 1.0 else ()
    parts = ([token for token, _ in params.logit_bias], told, written, draft)
    every = np.concatenate([np.array(part, np.int64) for part in parts])
    ids, places = np.unique(every, return_inverse=True)
    named, begins, stands, drafted = np.split(places, np.cumsum([len(part) for part in parts[:-1]]))
    counts = np.zeros((1 + len(draft), len(ids)), np.int64)
    counts[0] = np.bincount(stands, minlength=len(ids))
    counts[np.arange(1, len(counts)), drafted] = 1
    counts.cumsum(axis=0, out=counts)
    repeated, bias = counts > 0, np.zeros(len(ids), np.float32)
    repeated[:, begins] = True
    bias[named] = [value for _, value in params.logit_bias]
    return Penalties(params, ids, counts, repeated, bias)
