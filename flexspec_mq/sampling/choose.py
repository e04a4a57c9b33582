"""From logits to a token: a pure function of logits, parameters, position and the ids that a grammar allows.

The mask first, then temperature, min-p, top-k, top-p, then the arg-max of tempered logit plus Gumbel noise over what
is kept (Gumbel coupling, Daliri et al., arXiv 2408.07978). At temperature 0 it is the arg-max. Ties go to the lowest
id, so that the choice does not depend on the order in which anything was computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from flexspec_mq.sampling.noise import gumbel_of, words, words_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from flexspec_mq.sampling.noise import Words
    from schemas.messages import Sampling

_Ids: TypeAlias = "npt.NDArray[np.int64]"
_Sure = Callable[["npt.NDArray[np.float32]", int], tuple[list[int], int]]

_HEAVY = 1e-3
"""Weight beside the likeliest token's from which tokens are looked at first: nearly always a whole nucleus."""
_ROUNDING = 1e-9
"""Bound on the relative rounding of a score, with room for libraries whose logarithm is off by some bits."""


def choose(
    logits: npt.NDArray[np.float32],
    params: Sampling,
    position: int,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> int:
    """Choose the token at `position`.

    Args:
        logits: float32 of shape [vocabulary].
        params: how it is chosen.
        position: index of the token in prompt + text.
        allowed: ids that may be chosen, bool of shape [vocabulary], at least one; None allows all.

    Returns:
        The token's id.
    """
    if allowed is not None:
        ids = np.flatnonzero(allowed)
        return choose_few(ids, logits[ids], params, position)
    return _best(logits, params, position, None)


def choose_few(
    ids: npt.NDArray[np.int64], logits: npt.NDArray[np.float32], params: Sampling, position: int
) -> int:
    """Choose the token at `position` among some ids, as if all others had no weight.

    With ids among which all are that top-k leaves of a row, this is `choose` of the row, by logits or by
    log-probabilities.

    Args:
        ids: different token ids in any order, int64 of shape [ids], at least one.
        logits: their logits, float32 of shape [ids].
        params: as for `choose`.
        position: as for `choose`.

    Returns:
        The token's id.
    """
    order = np.argsort(ids, kind="stable")
    ids, logits = ids[order], logits[order]
    return int(ids[_best(logits, params, position, ids)])


def _best(logits: npt.NDArray[np.float32], params: Sampling, position: int, ids: _Ids | None) -> int:
    """Place of the chosen token."""
    if params.temperature == 0.0 or len(logits) == 1:
        return int(np.argmax(logits))
    kept, scores = _perturbed(logits, params, position, ids, _sure)
    return int(kept[np.argmax(scores)])


def choose_with_margin(
    logits: npt.NDArray[np.float32], params: Sampling, position: int, ids: _Ids | None = None
) -> tuple[int, float]:
    """Choose the token at `position`, and tell by how much.

    Another model that draws the same noise chooses the same token unless its logits differ from these by more than
    the margin, between the token and one of the others.

    Args:
        logits: float32 of shape [vocabulary].
        params: how it is chosen.
        position: index of the token in prompt + text.
        ids: token id of each of the logits, ascending; None when they are all ids.

    Returns:
        Place of the token that `choose` chooses, and the margin in logits: temperature times the distance between the
        best perturbed score and the second best (of the logits themselves at temperature 0). Infinite where nothing
        else can be chosen.
    """
    if params.temperature == 0.0:
        token = int(np.argmax(logits))
        return token, float(logits[token]) - _best_beside(logits, token)
    kept, scores = _perturbed(logits, params, position, ids, _sure_two)
    best = int(np.argmax(scores))
    return int(kept[best]), params.temperature * (float(scores[best]) - _best_beside(scores, best))


def _best_beside(values: npt.NDArray[np.float32] | npt.NDArray[np.float64], place: int) -> float:
    """The largest value but for the one at `place`; minus infinity if there is no other."""
    parts = (values[:place], values[place + 1 :])
    return max((float(part.max()) for part in parts if len(part)), default=-math.inf)


def keep(scores: npt.NDArray[np.float64], params: Sampling) -> npt.NDArray[np.intp] | None:
    """Which token ids min-p, top-k and top-p leave, in ascending order; None when all of them.

    Min-p keeps those with at least `min_p` times the probability of the likeliest. Top-k keeps the first k of the order
    (score down, id up). Top-p keeps the shortest head of what is left whose share of its mass reaches `top_p`.

    Args:
        scores: tempered logits, float64 of shape [vocabulary].
        params: min-p, top-k and top-p.
    """
    ids: npt.NDArray[np.intp] | None = None
    if params.min_p > 0.0:
        ids = np.flatnonzero(~(scores < scores.max() + math.log(params.min_p)))
        scores = scores[ids]
    if 0 < params.top_k < len(scores):
        border = np.partition(scores, -params.top_k)[-params.top_k]
        best = np.flatnonzero(scores >= border)
        if len(best) > params.top_k:
            tied = np.flatnonzero(scores[best] == border)
            best = np.delete(best, tied[params.top_k - len(best) :])
        ids, scores = best if ids is None else ids[best], scores[best]
    if params.top_p >= 1.0:
        return ids
    head = np.sort(_nucleus(scores, params.top_p))
    return head if ids is None else ids[head]


def keeps_all(params: Sampling, vocabulary: int) -> bool:
    """Whether every token may be chosen above temperature 0, however unlikely."""
    return params.min_p == 0.0 and params.top_p >= 1.0 and not 0 < params.top_k < vocabulary


def _perturbed(
    logits: npt.NDArray[np.float32], params: Sampling, position: int, ids: _Ids | None, sure: _Sure
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Places of logits that can be among the best, ascending, and their scores with noise."""
    kept = None
    if not keeps_all(params, len(logits)):
        kept = keep(_tempered(logits, params.temperature), params)
    if kept is not None:
        drawn = words_of(params.seed, position, kept if ids is None else ids[kept])
    else:
        drawn = (
            words(params.seed, position, len(logits)) if ids is None else words_of(params.seed, position, ids)
        )
        kept = _contenders(logits, params.temperature, drawn, sure)
        drawn = drawn[kept]
    scores = _tempered(logits[kept], params.temperature)
    scores += gumbel_of(drawn)
    return kept, scores


def _tempered(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float64]:
    scores = logits.astype(np.float64)
    scores /= temperature
    return scores


def _sure(logits: npt.NDArray[np.float32], luckiest: int) -> tuple[list[int], int]:
    """Ids that tell which score the best token surely reaches, the luckiest last, and the rank of that score."""
    return [int(np.argmax(logits)), luckiest], 1


def _sure_two(logits: npt.NDArray[np.float32], luckiest: int) -> tuple[list[int], int]:
    """The same for the second best: it reaches what the second best of two or three tokens does."""
    likeliest = int(np.argmax(logits))
    others = logits.copy()
    others[likeliest] = -np.inf
    second = int(np.argmax(others))
    return [*sorted({likeliest, second} - {luckiest}), luckiest], 2


def _contenders(
    logits: npt.NDArray[np.float32], temperature: float, drawn: Words, sure: _Sure
) -> npt.NDArray[np.intp]:
    """Ids that can win, ascending: those that the largest noise drawn would lift to a score that is surely reached.

    Noise is wanted for these alone, typically some dozens to thousands; drawing it costs far less than its
    logarithms. The likeliest and the luckiest tokens tell which score is surely reached.
    """
    known, rank = sure(logits, int(np.argmin(drawn)))
    noise = gumbel_of(drawn[known])
    scores = _tempered(logits[known], temperature)
    reached = float(np.sort(scores + noise)[-min(rank, len(known))])
    slack = _ROUNDING * (float(np.abs(scores).max()) + float(np.abs(noise).max()))
    border = (reached - float(noise[-1]) - slack) * temperature
    if not math.isfinite(border):
        return np.arange(len(logits))
    return np.flatnonzero(logits >= border)


def _nucleus(scores: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.intp]:
    """Indices of the nucleus, sorting as few scores as can be because it is nearly always small."""
    top = scores.max()
    weights = np.exp(scores - top)
    total = weights.sum()
    # What weighs less than an even share of the mass that top-p leaves out cannot be needed, but for rounding.
    for least in (_HEAVY, (1.0 - top_p) * total / len(scores)):
        candidates = np.flatnonzero(scores >= top + math.log(least))
        head = _head(candidates, scores, weights, top_p * total)
        if head is not None:
            return head
    head = _head(np.arange(len(scores)), scores, weights, top_p * total)
    return np.arange(len(scores)) if head is None else head


def _head(
    candidates: npt.NDArray[np.intp],
    scores: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    wanted: float,
) -> npt.NDArray[np.intp] | None:
    """Shortest head of the candidates' order with the wanted mass; None when all of them have less."""
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    mass = np.cumsum(weights[order])
    count = int(np.searchsorted(mass, wanted)) + 1
    return order[:count] if count <= len(order) else None
