"""Counter-based noise: the same dice for the target and the draft.

Part of the wire protocol (`NOISE_VERSION` 1), held by golden vectors in the tests:

- generator: Philox 4x64, 10 rounds (Salmon et al., SC 2011);
- key: ``(seed, KEY_DOMAIN)``;
- counter: ``(1 + token // 4, 0, position, NOISE_VERSION)``, where position counts from the start of the prompt;
- the token's word is number ``token % 4`` of the block's four; its uniform is ``(word >> 11) · 2⁻⁵³``, and a zero
  becomes 2⁻⁵⁴;
- Gumbel noise: ``-log(-log(uniform))``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NOISE_VERSION = 1
KEY_DOMAIN = 0x466C_6578_5370_6563  # "FlexSpec"
FACTORS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
"""Philox' factors of the counter's words 0 and 2, for whoever draws without numpy."""
KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
"""Numbers that are added to the key's two words between rounds."""
_SMALLEST = 2.0**-54
_LUCKY = np.uint64(2**64 - 2**55)
"""The least word of one in 512; its noise is 6.24."""
_UNUSED_BITS = np.uint64(11)

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]
Lucky = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def words(seed: int, position: int, vocab_size: int) -> Words:
    """Draw one word per token id; a larger word gives larger noise.

    Args:
        seed: unsigned 64-bit seed of the session.
        position: index of the token in prompt + text.
        vocab_size: how many token ids.

    Returns:
        uint64 of shape [vocab_size].
    """
    generator = np.random.Philox(
        counter=np.array([0, 0, position, NOISE_VERSION], dtype=np.uint64),
        key=np.array([seed, KEY_DOMAIN], dtype=np.uint64),
    )
    return generator.random_raw(vocab_size)


def words_of(seed: int, position: int, ids: npt.NDArray[np.int64]) -> Words:
    """The words that `words` draws for some token ids, which must be ascending and not empty; uint64 [ids]."""
    return words(seed, position, int(ids[-1]) + 1)[ids]


def lucky_words(seed: int, position: int, vocab_size: int) -> Lucky:
    """Token ids, ascending, whose noise is at least 6.24: about one in 512, with their words' bits."""
    drawn = words(seed, position, vocab_size)
    ids = np.flatnonzero(drawn >= _LUCKY)
    return ids, drawn[ids].view(np.int64)


def uniforms_of(drawn: Words) -> Floats:
    """Uniforms of words, of the same shape; each above 0 and below 1."""
    uniform = (drawn >> _UNUSED_BITS).astype(np.float64)
    uniform *= 2.0**-53
    return np.maximum(uniform, _SMALLEST, out=uniform)


def gumbel_of(drawn: Words) -> Floats:
    """Standard Gumbel variates of words, of the same shape. A word's variate does not depend on the others."""
    noise = uniforms_of(drawn)
    np.log(noise, out=noise)
    np.negative(noise, out=noise)
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)
