"""Our rule of sampling where only the likeliest tokens of a row are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from flexspec_mq.sampling.choose import choose_few

if TYPE_CHECKING:
    from cloud_worker.engine.servers.server import Row
    from flexspec_mq.grammar.matcher import Mask
    from schemas.messages import Sampling


def chosen(row: Row, params: Sampling, position: int, mask: Mask | None = None) -> int | None:
    """Token that `choose` gives for the whole row; None where the likeliest do not tell.

    They do if all that min-p, top-k and top-p leave are among them, or all that the mask allows.
    """
    if params.temperature == 0.0 and mask is None:
        return row.token  # the likeliest by the server's own account
    ids, logprobs, whole = row.ids, row.logprobs, False
    if mask is not None:
        here = mask[ids]
        ids, logprobs = ids[here], logprobs[here]
        whole = len(ids) == np.count_nonzero(mask)
    if not len(ids):
        return None
    if params.temperature > 0.0 and params.min_p > 0.0:
        least = float(logprobs[0]) / params.temperature + math.log(params.min_p)
        likely = logprobs.astype(np.float64) / params.temperature >= least
        ids, logprobs = ids[likely], logprobs[likely]
        whole |= float(row.logprobs[-1]) / params.temperature < least
    if params.temperature > 0.0 and not whole and not 0 < params.top_k <= len(ids):
        nucleus = _nucleus(row, logprobs, params)
        if nucleus is None:
            return None
        ids, logprobs = ids[:nucleus], logprobs[:nucleus]
        params = msgspec.structs.replace(params, top_p=1.0, top_k=0)
    return choose_few(ids, logprobs, params, position)


def by_rule(params: Sampling, most: int) -> bool:
    """Whether rows of so many tokens usually tell."""
    cut = (params.top_p < 1.0 or params.min_p > 0.0) and params.temperature <= 1.0
    return params.temperature == 0.0 or 0 < params.top_k <= most or cut


def _nucleus(row: Row, allowed: np.ndarray[tuple[int], np.dtype[np.float32]], params: Sampling) -> int | None:
    """How many of the allowed tokens, the likeliest first, top-p alone leaves; None if that cannot be told.

    Tokens that are not known have some mass. Below temperature 1 each weighs less than its share of what the known
    ones leave, tempered as the least of these is, so the nucleus lies between those without and with that mass.
    """
    if params.top_p >= 1.0 or params.temperature > 1.0:
        return None
    known, least = row.logprobs.astype(np.float64), float(row.logprobs[-1])
    scores = allowed.astype(np.float64) / params.temperature
    mass = np.cumsum(np.exp(scores - scores[0]))
    left = max(0.0, 1.0 - float(np.exp(known).sum()))
    tail = left * np.exp(least * (1.0 / params.temperature - 1.0) - scores[0])
    fewest, most = (
        1 + int(np.searchsorted(mass, params.top_p * total)) for total in (mass[-1], mass[-1] + tail)
    )
    return fewest if fewest == most <= len(mass) else None
