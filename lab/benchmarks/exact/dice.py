"""How a token is chosen, written a second time from its description, for the reference to use.

Nothing of the project is imported: the description is the docstring of `flexspec_mq.sampling.noise` and the rules
of `docs/protocol.md`. Everything is done the plain way: whole vocabularies, full sorts, float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_KEY_DOMAIN = int.from_bytes(b"FlexSpec", "big")
_NOISE_VERSION = 1
_MASK = 2**64 - 1
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)

U64s = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Dice:
    """Sampling parameters: temperature (0 is greedy), top-k (0 is off), top-p (1 is off), 64-bit seed."""

    temperature: float
    top_k: int
    top_p: float
    seed: int


def philox(counter: Sequence[U64s], key: tuple[int, int]) -> list[U64s]:
    """Philox 4x64 with 10 rounds (Salmon et al., SC 2011) on many counters at once.

    Args:
        counter: four arrays of one shape.
        key: two words.

    Returns:
        Four arrays of that shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def _multiply(values: U64s, factor: int) -> tuple[U64s, U64s]:
    """High and low words of the 128-bit products, from 32-bit halves."""
    factor_low, factor_high = np.uint64(factor & 0xFFFFFFFF), np.uint64(factor >> 32)
    low, high = values & _LOW, values >> _HALF
    bottom, top = low * factor_low, high * factor_high
    middle_a, middle_b = high * factor_low, low * factor_high
    carry = (bottom >> _HALF) + (middle_a & _LOW) + (middle_b & _LOW)
    return top + (middle_a >> _HALF) + (middle_b >> _HALF) + (carry >> _HALF), values * np.uint64(factor)


def gumbel(seed: int, position: int, vocabulary: int) -> Floats:
    """Standard Gumbel noise for every token id at an absolute position; float64 [vocabulary]."""
    blocks = -(-vocabulary // 4)
    first = np.arange(1, blocks + 1, dtype=np.uint64)
    constants = [np.full(blocks, value, dtype=np.uint64) for value in (0, position, _NOISE_VERSION)]
    words = np.stack(philox([first, *constants], (seed, _KEY_DOMAIN)), axis=1).reshape(-1)[:vocabulary]
    uniform = (words >> np.uint64(11)).astype(np.float64) / 2.0**53
    uniform[uniform == 0.0] = 2.0**-54
    noise: Floats = -np.log(-np.log(uniform))
    return noise


def kept(logits: npt.NDArray[np.float32], dice: Dice) -> npt.NDArray[np.bool_]:
    """Which ids top-k and then top-p leave; ties of the k-th stay, top-p takes (likelier first, lower id first)."""
    scores = logits.astype(np.float64) / dice.temperature
    keep = np.ones(len(scores), dtype=bool)
    if 0 < dice.top_k < len(scores):
        keep = scores >= np.sort(scores)[-dice.top_k]
    if dice.top_p < 1.0:
        mass = np.where(keep, np.exp(scores - scores.max()), 0.0)
        order = np.lexsort((np.arange(len(scores)), -scores))
        order = order[keep[order]]
        before = np.concatenate(([0.0], np.cumsum(mass[order])[:-1]))
        keep = np.zeros(len(scores), dtype=bool)
        keep[order[before < dice.top_p * mass.sum()]] = True
    return keep


def choose(logits: npt.NDArray[np.float32], dice: Dice, position: int) -> int:
    """The token at `position` of prompt + text."""
    if dice.temperature == 0.0:
        return int(np.flatnonzero(logits == logits.max())[0])
    scores = logits.astype(np.float64) / dice.temperature + gumbel(dice.seed, position, len(logits))
    scores[~kept(logits, dice)] = -np.inf
    return int(np.flatnonzero(scores == scores.max())[0])
