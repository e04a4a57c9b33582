"""The noise is part of the wire protocol: an edge and a worker of different ages must draw the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.sampling import noise

MASK = 2**64 - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product2 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (
            (product2 >> 64) ^ c1 ^ k0,
            product2 & MASK,
            (product0 >> 64) ^ c3 ^ k1,
            product0 & MASK,
        )
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c0, c1, c2, c3


SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**20)

# (seed, position, token) and the word, made by `philox`.
GOLDEN = {
    (0, 0, 0): 0x1D116FC9A536D697,
    (0, 0, 3): 0xDF3A7E86D187C611,
    (0, 0, 4): 0x68C7DA6D04B1421B,
    (1, 0, 0): 0xA98AC511B010411E,
    (0, 1, 0): 0xE240227332AE2FE7,
    (42, 17, 49151): 0xD0CC9FF4247F2E3C,
    (0xFFFFFFFFFFFFFFFF, 1048576, 128255): 0x2E7601C0F9D12B71,
    (0x123456789ABCDEF, 999, 1000): 0x5D0AC17A1E88CE83,
}


# The known-answer vectors that the authors of Philox publish with Random123 (philox4x64, 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B),
        ),
        (
            (2**64 - 1,) * 4,
            (2**64 - 1,) * 2,
            (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
        ),
        (
            (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
            (0x452821E638D01377, 0xBE5466CF34E90C6C),
            (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
        ),
    ],
)
def test_the_slow_generator_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], answer: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == answer


@pytest.mark.parametrize(("where", "word"), list(GOLDEN.items()))
def test_golden_words(where: tuple[int, int, int], word: int) -> None:
    seed, position, token = where
    assert int(noise.words(seed, position, token + 1)[token]) == word


@settings(max_examples=50)
@given(SEEDS, POSITIONS, st.integers(0, 50_000))
def test_every_word_is_the_one_that_the_description_names(seed: int, position: int, token: int) -> None:
    counter = (1 + token // 4, 0, position, noise.NOISE_VERSION)
    assert (
        int(noise.words(seed, position, token + 1)[token])
        == philox(counter, (seed, noise.KEY_DOMAIN))[token % 4]
    )


@settings(max_examples=30)
@given(SEEDS, POSITIONS, st.integers(1, 300), st.integers(1, 300))
def test_a_larger_vocabulary_only_adds_words(seed: int, position: int, small: int, more: int) -> None:
    assert np.array_equal(
        noise.words(seed, position, small), noise.words(seed, position, small + more)[:small]
    )


def test_uniforms_use_the_upper_53_bits_and_are_never_0_or_1() -> None:
    drawn = np.array([0, 2**11 - 1, 2**11, 2**63, 2**64 - 2**11, 2**64 - 1], dtype=np.uint64)
    found = noise.uniforms_of(drawn).tolist()
    assert found == [2.0**-54, 2.0**-54, 2.0**-53, 0.5, 1 - 2.0**-53, 1 - 2.0**-53]


def test_gumbel_noise_is_finite_at_both_ends_and_right_in_between() -> None:
    drawn = np.array([0, 2**62, 2**63, 2**64 - 1], dtype=np.uint64)
    wanted = [-math.log(-math.log(u)) for u in (2.0**-54, 0.25, 0.5, 1 - 2.0**-53)]
    assert noise.gumbel_of(drawn).tolist() == pytest.approx(wanted, rel=1e-14)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=50))
def test_a_words_variate_does_not_depend_on_its_neighbours(values: list[int]) -> None:
    """Vector instructions may compute the ends of an array in another way than its middle."""
    drawn = np.array(values, dtype=np.uint64)
    together = noise.gumbel_of(drawn)
    alone = [noise.gumbel_of(drawn[i : i + 1])[0] for i in range(len(drawn))]
    assert together.tolist() == alone
