"""How a token is chosen, written a second time from its description, for the reference to use.

Nothing of the project is imported: the description is the docstring of `flexspec_mq.sampling.noise` and the rules
of `docs/protocol.md`. Everything is done the plain way: whole vocabularies, full sorts, float64.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

U32s = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Params:
    """Sampling parameters: temperature (0 is greedy), top-k and min-p (0 is off), top-p (1 is off), 64-bit seed.

    Penalties are off at 1 (repetition) and 0; the bias is by token ids.
    """

    temperature: float
    top_k: int
    top_p: float
    seed: int
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def murmur(blocks: Sequence[U32s]) -> U32s:
    """MurmurHash3, x86, 32 bits, seed 0 (Appleby), of many messages at once.

    Args:
        blocks: arrays of one shape: the messages' first four bytes as little-endian numbers, their next, and so on.

    Returns:
        Hashes, of that shape.
    """
    state = np.zeros_like(blocks[0])
    for block in blocks:
        state = _rotated(state ^ _rotated(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593), 13)
        state = state * np.uint32(5) + np.uint32(0xE6546B64)
    state = state ^ np.uint32(4 * len(blocks))
    state = (state ^ state >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    state = (state ^ state >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return state ^ state >> np.uint32(16)


def _rotated(values: U32s, bits: int) -> U32s:
    return values << np.uint32(bits) | values >> np.uint32(32 - bits)


def gumbel(seed: int, position: int, vocabulary: int) -> Floats:
    """Standard Gumbel noise for every token id at an absolute position; float64 [vocabulary]."""
    ids = np.arange(vocabulary, dtype=np.uint32)
    words = murmur(
        [np.full_like(ids, part) for part in (seed % 2**32, seed >> 32, (position - 1) % 2**32)] + [ids]
    )
    uniform = 1.0 - (words.astype(np.float64) + 0.5) / 2.0**32
    noise: Floats = -np.log(-np.log(uniform))
    return noise


def kept(logits: npt.NDArray[np.float32], sampling: Params) -> npt.NDArray[np.bool_]:
    """Which ids min-p, then top-k and then top-p leave; all take likelier ids first, of equal ones the lower first."""
    scores = logits.astype(np.float64) / sampling.temperature
    order = np.lexsort((np.arange(len(scores)), -scores))
    if sampling.min_p > 0.0:
        order = order[scores[order] >= scores.max() + np.log(sampling.min_p)]
    order = order[: sampling.top_k or None]
    if sampling.top_p < 1.0:
        mass = np.exp(scores[order] - scores.max())
        before = np.concatenate(([0.0], np.cumsum(mass)[:-1]))
        order = order[before < sampling.top_p * mass.sum()]
    keep = np.zeros(len(scores), dtype=bool)
    keep[order] = True
    return keep


def penalized(
    logits: npt.NDArray[np.float32], sampling: Params, prompt: Sequence[int], written: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Logits behind `prompt` and the text `written`, as bias and penalties leave them, one token id after the other."""
    logits = logits.astype(np.float32)
    for token, bias in dict(sampling.logit_bias).items():
        logits[int(token)] += np.float32(bias)
    penalty = np.float32(sampling.repetition_penalty)
    for token in {*prompt, *written}:
        logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    for token in set(written):
        logits[token] -= np.float32(sampling.frequency_penalty) * np.float32(list(written).count(token))
        logits[token] -= np.float32(sampling.presence_penalty)
    return logits


def choose(logits: npt.NDArray[np.float32], sampling: Params, position: int) -> int:
    """The token at `position` of prompt + text."""
    if sampling.temperature == 0.0:
        return int(np.flatnonzero(logits == logits.max())[0])
    scores = logits.astype(np.float64) / sampling.temperature + gumbel(sampling.seed, position, len(logits))
    scores[~kept(logits, sampling)] = -np.inf
    return int(np.flatnonzero(scores == scores.max())[0])
