"""Counter-based noise: the same noise for the target and the draft, which are vLLM's too.

Part of the wire protocol (`NOISE_VERSION` 2, which a session's identity carries), held by what vLLM's own kernel draws:

- word: MurmurHash3 (x86, 32 bits, seed 0) of 16 bytes, little-endian: the session's seed in 64 bits, the position of
  the token before, counted from the start of the prompt, in 32, and the token's id in 32;
- uniform: ``1 - (word + 1/2) · 2⁻³²``, so that the smallest word gives the largest noise;
- Gumbel noise: ``-log(-log(uniform))``.

vLLM's second model runner draws the same words at its defaults, for requests with a seed. It adds noise to logits in
float32, where this is float64 throughout; so it can choose otherwise where two scores are some 1e-6 apart.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_LUCKY = np.uint32(2**23)
"""The words below it are one in 512; their noise is at least 6.24."""
_LOW = 0xFFFFFFFF
_KEY_FACTORS = (0xCC9E2D51, 0x1B873593)
_STATE_STEP = (5, 0xE6546B64)
_LAST_FACTORS = (0x85EBCA6B, 0xC2B2AE35)
_SIZE = 16

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]
Lucky = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
_Number = TypeVar("_Number", int, "torch.Tensor")


def words(seed: int, position: int, vocab_size: int) -> Words:
    """Draw one word per token id; a smaller word gives larger noise.

    Args:
        seed: unsigned 64-bit seed of the session.
        position: index of the token in prompt + text.
        vocab_size: how many token ids.

    Returns:
        uint32 of shape [vocab_size].
    """
    return _words(seed, position, _keys_below(vocab_size))


def words_of(seed: int, position: int, ids: npt.NDArray[np.int64]) -> Words:
    """The words that `words` draws for some token ids, in any order; uint32 [ids]."""
    return _words(seed, position, _keys(ids.astype(np.uint32)))


def lucky_words(seed: int, position: int, vocab_size: int) -> Lucky:
    """Token ids, ascending, whose noise is at least 6.24: about one in 512, with their words."""
    drawn = words(seed, position, vocab_size)
    ids = np.flatnonzero(drawn < _LUCKY)
    return ids, drawn[ids].astype(np.int64)


def gumbel_of(drawn: Words) -> Floats:
    """Standard Gumbel variates of words, of the same shape. A word's variate does not depend on the others."""
    noise = (2.0**32 - 0.5) - drawn.astype(np.float64)
    noise *= 2.0**-32
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


def hashed_before(seed: _Number, position: _Number) -> _Number:
    """State of the hash before the token's id: of one row, or of many in int64, with the bits of unsigned seeds."""
    state = _mixed(seed ^ seed, seed & _LOW)
    state = _mixed(state, seed >> 32 & _LOW)
    return _mixed(state, position - 1 & _LOW)


def hashed(state: _Number, token: _Number) -> _Number:
    """Words of tokens, from the state before their ids."""
    word = _mixed(state, token) ^ _SIZE
    for shift, factor in zip((16, 13), _LAST_FACTORS, strict=True):
        word = (word ^ word >> shift) * factor & _LOW
    return word ^ word >> 16


def _mixed(state: _Number, block: _Number) -> _Number:
    """State after one more block of 32 bits; all are below 2^32."""
    key = block * _KEY_FACTORS[0] & _LOW
    key = (key << 15 | key >> 17) & _LOW
    state = state ^ key * _KEY_FACTORS[1] & _LOW
    state = (state << 13 | state >> 19) & _LOW
    return state * _STATE_STEP[0] + _STATE_STEP[1] & _LOW


@lru_cache(maxsize=4)
def _keys_below(count: int) -> Words:
    """Blocks of all token ids as they enter the hash, the same for all rows of a vocabulary."""
    return _keys(np.arange(count, dtype=np.uint32))


def _keys(ids: npt.NDArray[np.uint32]) -> Words:
    keys = ids * np.uint32(_KEY_FACTORS[0])
    keys = keys << np.uint32(15) | keys >> np.uint32(17)
    keys *= np.uint32(_KEY_FACTORS[1])
    return keys


def _words(seed: int, position: int, keys: Words) -> Words:
    """Words from the blocks of ids: as `hashed`, but in place, which takes a third of the time."""
    word = keys ^ np.uint32(hashed_before(seed, position))
    spare = word >> np.uint32(19)
    word <<= np.uint32(13)
    word |= spare
    word *= np.uint32(_STATE_STEP[0])
    word += np.uint32(_STATE_STEP[1])
    word ^= np.uint32(_SIZE)
    for shift, factor in zip((16, 13), _LAST_FACTORS, strict=True):
        word ^= np.right_shift(word, np.uint32(shift), out=spare)
        word *= np.uint32(factor)
    word ^= np.right_shift(word, np.uint32(16), out=spare)
    return word
