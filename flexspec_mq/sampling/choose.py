"""From logits to a token: a pure function of logits, parameters and position.

Temperature first, then top-k, then top-p, then the arg-max of tempered logit plus Gumbel noise over what is kept
(Gumbel coupling, Daliri et al., arXiv 2408.07978). At temperature 0 it is the arg-max. Ties go to the lowest id, so
that the choice does not depend on the order in which anything was computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flexspec_mq.sampling.noise import gumbel

if TYPE_CHECKING:
    import numpy.typing as npt

    from flexspec_mq.sampling.params import SamplingParams

_FIRST_LOOK = 512


def choose(logits: npt.NDArray[np.float32], params: SamplingParams, position: int) -> int:
    """Choose the token at `position`.

    Args:
        logits: float32 of shape [vocabulary].
        params: temperature, top-k, top-p and seed.
        position: index of the token in prompt + text.

    Returns:
        The token's id.
    """
    if params.temperature == 0.0:
        return int(np.argmax(logits))
    scores = logits.astype(np.float64)
    scores /= params.temperature
    kept = keep(scores, params)
    noise = gumbel(params.seed, position, len(scores))
    if kept is None:
        scores += noise
        return int(np.argmax(scores))
    return int(kept[np.argmax(scores[kept] + noise[kept])])


def keep(scores: npt.NDArray[np.float64], params: SamplingParams) -> npt.NDArray[np.intp] | None:
    """Which token ids top-k and top-p leave, in ascending order; None when all of them.

    Top-k keeps every token whose score is at least the k-th largest, so ties at the border stay. Top-p keeps the
    shortest head of the order (score down, id up) whose mass reaches `top_p`.

    Args:
        scores: tempered logits, float64 of shape [vocabulary].
        params: top-k and top-p.
    """
    ids: npt.NDArray[np.intp] | None = None
    if 0 < params.top_k < len(scores):
        border = np.partition(scores, -params.top_k)[-params.top_k]
        ids = np.flatnonzero(scores >= border)
    if params.top_p >= 1.0:
        return ids
    if ids is None:
        return np.sort(_nucleus(scores, params.top_p))
    return ids[np.sort(_nucleus(scores[ids], params.top_p))]


def _nucleus(scores: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.intp]:
    """Indices of the nucleus, looking at few candidates first because it is nearly always small."""
    weights = np.exp(scores - scores.max())
    wanted = top_p * weights.sum()
    looked = _FIRST_LOOK
    while looked < len(scores):
        border = np.partition(scores, -looked)[-looked]
        candidates = np.flatnonzero(scores >= border)
        head = _head(candidates, scores, weights, wanted)
        if head is not None:
            return head
        looked *= 8
    head = _head(np.arange(len(scores)), scores, weights, wanted)
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
