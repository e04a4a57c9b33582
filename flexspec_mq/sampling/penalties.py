"""Logits as penalties and a bias leave them: a pure function of logits, parameters and the tokens before.

In vLLM's order, each in float32: the bias is added; logits of tokens of prompt and text are divided by the repetition
penalty where they are positive, and else multiplied by it; then the frequency penalty times the token's count in the
text goes off, and the presence penalty where the text has the token at all. Whatever tokens a grammar forbids, and how
one is chosen then, does not depend on it. Only tokens that were named or stand before change, so nothing here is of
the size of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from schemas.messages import Sampling

_Ids = npt.NDArray[np.int64]
_Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Penalties:
    """The change of the logits of one row.

    Attributes:
        params: sampling parameters of the text.
        ids: token ids whose logits change, ascending, int64 [n].
        counts: how often the text has each, int64 [n].
        repeated: whether prompt or text have it, bool [n].
        bias: added to its logit, float32 [n].
    """

    params: Sampling
    ids: _Ids
    counts: _Ids
    repeated: npt.NDArray[np.bool_]
    bias: _Logits

    def of(self, logits: _Logits) -> _Logits:
        """The changed logits of `ids` from their own; float32 [n]."""
        params, changed = self.params, logits + self.bias
        if params.repetition_penalty != 1.0:
            factor = np.float32(params.repetition_penalty)
            scaled = np.where(changed > 0, changed / factor, changed * factor)
            changed = np.where(self.repeated, scaled, changed)
        changed = changed - np.float32(params.frequency_penalty) * self.counts.astype(np.float32)
        return changed - np.float32(params.presence_penalty) * (self.counts > 0).astype(np.float32)

    def apply(self, logits: _Logits, columns: _Ids | None = None) -> None:
        """Change a row in place.

        Args:
            logits: float32 [vocabulary], or [columns].
            columns: token id of each, in any order; None when they are all ids.
        """
        if columns is None:
            logits[self.ids] = self.of(logits[self.ids])
            return
        order = np.argsort(columns, kind="stable")
        at = np.minimum(np.searchsorted(columns[order], self.ids), len(columns) - 1)
        known = columns[order[at]] == self.ids
        whole = np.zeros(len(self.ids), np.float32)
        whole[known] = logits[order[at[known]]]
        logits[order[at[known]]] = self.of(whole)[known]

    def behind(self, token: int) -> Penalties:
        """Penalties of the row behind one more token of the text."""
        place = int(np.searchsorted(self.ids, token))
        found = self
        if place == len(self.ids) or self.ids[place] != token:
            found = replace(
                self,
                ids=np.insert(self.ids, place, token),
                counts=np.insert(self.counts, place, 0),
                repeated=np.insert(self.repeated, place, values=False),
                bias=np.insert(self.bias, place, np.float32(0.0)),
            )
        counts, repeated = found.counts.copy(), found.repeated.copy()
        counts[place] += 1
        repeated[place] = True
        return replace(found, counts=counts, repeated=repeated)


def penalties(params: Sampling, prompt: Sequence[int], written: Sequence[int]) -> Penalties:
    """The change of the row behind a prompt and a part of its text.

    Args:
        params: sampling parameters of the text.
        prompt: token ids of its prompt; they count for the repetition penalty alone.
        written: token ids of the text, those that are drafted included.
    """
    nothing: Sequence[int] = ()
    named = np.array([token for token, _ in params.logit_bias], np.int64)
    told = np.unique(np.array(prompt if params.repetition_penalty != 1.0 else nothing, np.int64))
    stands, often = np.unique(np.array(written, np.int64), return_counts=True)
    ids = np.union1d(np.union1d(named, told), stands)
    counts, bias, repeated = (
        np.zeros(len(ids), np.int64),
        np.zeros(len(ids), np.float32),
        np.zeros(len(ids), bool),
    )
    counts[np.searchsorted(ids, stands)] = often
    repeated[np.searchsorted(ids, told)] = True
    repeated |= counts > 0
    bias[np.searchsorted(ids, named)] = [value for _, value in params.logit_bias]
    return Penalties(params, ids, counts, repeated, bias)
