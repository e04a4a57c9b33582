"""The rule of rejection sampling, without a model's libraries.

Leviathan et al., arXiv 2211.17192, algorithm 1: the target accepts a guess with probability min(1, p / q) and
replaces the first one that it rejects by a token from the residual max(p − q, 0). The target must compare with
what the guess was drawn from: the device rounds probabilities to 16 bits first, and draws from what the other side
will read.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from flexspec_mq.sampling.choose import keep
from schemas.messages import Sampling

Floats = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]


def rounded(q: Floats, ids: npt.NDArray[np.int64] | None, vocab_size: int) -> Halves:
    """A distribution as it travels: 16 bits a probability.

    Args:
        q: float64 of shape [columns], summing to 1.
        ids: token id of each column; None when they are all ids.
        vocab_size: ids that there are; those without a column have no probability.
    """
    halves = np.zeros(vocab_size, dtype=np.float16)
    halves[slice(None) if ids is None else ids] = q
    return halves


def distribution(halves: Halves) -> Floats:
    """Distribution that both sides take rounded probabilities for: float64, summing to 1."""
    found: Floats = halves.astype(np.float64)
    found /= found.sum()
    return found


def probabilities(logits: npt.NDArray[np.float32], params: Sampling) -> Floats:
    """Distribution that `choose` draws from: temperature, then top-k, then top-p.

    Args:
        logits: float32 of shape [vocabulary].
        params: sampling with a temperature above 0; the seed does not matter.

    Returns:
        float64 of the same shape, summing to 1.
    """
    scores = logits.astype(np.float64) / params.temperature
    kept = keep(scores, params)
    if kept is not None:
        dropped = np.ones(len(scores), dtype=bool)
        dropped[kept] = False
        scores[dropped] = -np.inf
    scores -= scores.max()
    np.exp(scores, out=scores)
    scores /= scores.sum()
    return scores


def draw(weights: Floats, rng: np.random.Generator) -> int:
    """Draw an id with probability proportional to its weight.

    Args:
        weights: float64 of shape [vocabulary], none negative, some positive.
        rng: where the uniform comes from.
    """
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, rng.random() * mass[-1], side="right"))


def verify(
    p: Callable[[int], Floats],
    q: Sequence[Floats],
    draft: Sequence[int],
    eos: Sequence[int],
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Decide tokens: the accepted guesses, and one more unless an end of text was accepted.

    Args:
        p: gives the target's distribution behind the prefix (0) and behind each guess (from 1), float64 of shape
            [vocabulary]; none is asked for behind a rejected guess.
        q: the draft's distribution of each guess, likewise.
        draft: the guesses, drawn from `q`.
        eos: ids that end the text.
        rng: the target's.
    """
    decided: list[int] = []
    for place, (theirs, guess) in enumerate(zip(q, draft, strict=True)):
        mine = p(place)
        if rng.random() * theirs[guess] >= mine[guess]:
            residual = np.maximum(mine - theirs, 0.0)
            decided.append(draw(residual if residual.any() else mine, rng))
            return tuple(decided)
        decided.append(guess)
        if guess in eos:
            return tuple(decided)
    decided.append(draw(p(len(draft)), rng))
    return tuple(decided)
