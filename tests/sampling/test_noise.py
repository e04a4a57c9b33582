"""The noise is part of the wire protocol: an edge and a worker of different ages must draw the same."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.sampling import noise
from tests.sampling.vllm_noise import recorded

RECORD = recorded()
SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(1, 2**20)


def murmur(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 x86 32 of whole blocks, as its author wrote it."""
    h = seed
    for (block,) in struct.iter_unpack("<I", data):
        k = block * 0xCC9E2D51 % 2**32
        k = (k << 15 | k >> 17) % 2**32
        h ^= k * 0x1B873593 % 2**32
        h = (h << 13 | h >> 19) % 2**32
        h = (h * 5 + 0xE6546B64) % 2**32
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


@pytest.mark.parametrize(
    ("data", "seed", "answer"),
    [
        (b"", 1, 0x514E28B7),
        (b"test", 0, 0xBA6BD213),
        (b"test", 0x9747B28C, 0x704B81DC),
        (b"\0" * 4, 0, 0x2362F9DE),
    ],
)
def test_the_slow_hash_gives_published_answers(data: bytes, seed: int, answer: int) -> None:
    assert murmur(data, seed) == answer


@pytest.mark.parametrize("drawn", RECORD["rows"])
def test_words_and_noise_are_those_of_vllms_kernel(drawn: dict[str, Any]) -> None:
    """Its noise is float32: a part in a million, and more where its logarithm is a series that is cut off."""
    seed, ids = drawn["seed"] % 2**64, np.array(drawn["ids"])
    found = noise.words_of(seed, drawn["input_position"] + 1, ids)
    assert found.tolist() == drawn["words"]
    assert noise.gumbel_of(found).tolist() == pytest.approx(drawn["noise"], rel=1e-6, abs=2e-6)


@given(SEEDS, POSITIONS, st.integers(0, 50_000))
def test_every_word_is_the_one_that_the_description_names(seed: int, position: int, token: int) -> None:
    wanted = murmur(struct.pack("<QII", seed, position - 1, token))
    assert int(noise.words(seed, position, token + 1)[token]) == wanted
    assert noise.words_of(seed, position, np.array([token, 0, token])).tolist()[::2] == [wanted, wanted]


@settings(max_examples=30)
@given(SEEDS, POSITIONS, st.integers(1, 300), st.integers(1, 300))
def test_a_larger_vocabulary_only_adds_words(seed: int, position: int, small: int, more: int) -> None:
    assert np.array_equal(
        noise.words(seed, position, small), noise.words(seed, position, small + more)[:small]
    )


def test_gumbel_noise_is_finite_at_both_ends_and_right_in_between() -> None:
    drawn = np.array([0, 2**31, 2**32 - 1], dtype=np.uint32)
    wanted = [-math.log(-math.log1p(-u)) for u in (2.0**-33, 0.5 + 2.0**-33, 1 - 2.0**-33)]
    assert noise.gumbel_of(drawn).tolist() == pytest.approx(wanted, rel=1e-13)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=50))
def test_a_words_variate_does_not_depend_on_its_neighbours(values: list[int]) -> None:
    """Vector instructions may compute the ends of an array in another way than its middle."""
    drawn = np.array(values, dtype=np.uint32)
    together = noise.gumbel_of(drawn)
    alone = [noise.gumbel_of(drawn[i : i + 1])[0] for i in range(len(drawn))]
    assert together.tolist() == alone
