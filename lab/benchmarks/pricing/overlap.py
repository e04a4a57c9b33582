"""What a draft's distribution q is worth beside the target's p, by the two exact ways to accept a guess.

Rejection sampling (Leviathan et al., arXiv 2211.17192) accepts with probability Σ min(p, q) = 1 − TV, the most that
is possible, and needs q at the verifier. Common random numbers (Gumbel coupling, Daliri et al., arXiv 2408.07978)
accept with Σ_i 1 / Σ_j max(p_j / p_i, q_j / q_i), at least (1 − TV) / (1 + TV), and need nothing but the guess.
"""

from __future__ import annotations

import numpy as np

from lab.bench.traditional.rejection import Floats


def rejection_acceptance(p: Floats, q: Floats) -> float:
    """Probability that rejection sampling accepts a token drawn from `q`: Σ min(p, q)."""
    return float(np.minimum(p, q).sum())


def coupling_acceptance(p: Floats, q: Floats) -> float:
    """Probability that arg-maxes of log p and log q under the same Gumbel noise agree.

    Of p_j / p_i and q_j / q_i the first is larger where q_j / p_j < q_i / p_i and the second where it is more; both
    are equal where it is equal. So, with the tokens sorted by q / p, the inner sum of token i is
    P_i / p_i + Q_i / q_i, where P_i sums p over all tokens up to i and Q_i sums q over all behind it: O(V log V).

    Args:
        p: target, float64 of shape [vocabulary].
        q: draft, likewise.
    """
    some = (p > 0.0) | (q > 0.0)
    p, q = p[some], q[some]
    with np.errstate(divide="ignore"):
        ratio = q / p  # infinite where only the draft has the token
    order = np.argsort(ratio, kind="stable")
    p, q = p[order], q[order]
    up_to = np.cumsum(p)
    behind = np.append(np.cumsum(q[::-1])[-2::-1], 0.0)
    both = (p > 0.0) & (q > 0.0)
    p, q = p[both], q[both]
    return float((1.0 / (up_to[both] / p + behind[both] / q)).sum())


def coupling_bound(p: Floats, q: Floats) -> float:
    """The least that `coupling_acceptance` can be at this total variation: (1 − TV) / (1 + TV)."""
    accepted = rejection_acceptance(p, q)
    return accepted / (2.0 - accepted)
