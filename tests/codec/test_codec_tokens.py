import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.codec.tokens import _unpack_each, count_tokens, pack_tokens, unpack_tokens
from schemas.messages import MAX_TOKEN_ID
from tests.codec.samples import tokens


@pytest.mark.parametrize(
    ("token", "packed"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2**21 - 1, "ffff7f"),
        (2**21, "80808001"),
        (MAX_TOKEN_ID, "ffffff07"),
    ],
)
def test_where_another_byte_begins(token: int, packed: str) -> None:
    assert pack_tokens([token]).hex() == packed
    assert unpack_tokens(bytes.fromhex(packed)) == (token,)


@given(ids=tokens(0, 200))
def test_round_trip_and_count(ids: tuple[int, ...]) -> None:
    packed = pack_tokens(ids)
    assert count_tokens(packed) == len(ids)
    assert unpack_tokens(packed) == ids


@given(packed=st.binary(max_size=64))
def test_any_bytes_are_refused_or_the_one_encoding_of_their_tokens(packed: bytes) -> None:
    try:
        ids = unpack_tokens(packed)
    except ValueError:
        return
    assert pack_tokens(ids) == packed


@st.composite
def long_strings(draw: st.DrawFn) -> bytes:
    """More bytes than a loop reads, nearly always of tokens; a few of them are changed, and the end may be cut."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = random.Random(seed)
    most = draw(st.sampled_from((0x7F, 0x3FFF, 49_151, MAX_TOKEN_ID)))
    packed = bytearray(pack_tokens([rng.randint(0, most) for _ in range(draw(st.integers(512, 1200)))]))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=3)):
        packed[place] = byte
    return bytes(packed[: len(packed) - draw(st.integers(0, 3))])


def outcome(read: Callable[[bytes], tuple[int, ...]], packed: bytes) -> tuple[int, ...] | str:
    try:
        return read(packed)
    except ValueError as error:
        return str(error)


@given(packed=long_strings())
def test_arrays_read_what_the_loop_reads(packed: bytes) -> None:
    assert sys.modules["numpy"] is np
    assert outcome(unpack_tokens, packed) == outcome(_unpack_each, packed)


def test_a_process_without_numpy_reads_the_same_and_loads_neither_it_nor_a_dictionary() -> None:
    code = (
        "import sys, flexspec_mq.codec, flexspec_mq.codec.compression as c, flexspec_mq.codec.tokens as t;"
        "ids = tuple(range(0, 2**24, 9973)); print(t.unpack_tokens(t.pack_tokens(ids)) == ids);"
        "heavy = {'torch', 'numpy', 'transformers', 'asyncio', 'aiomqtt'} & set(sys.modules);"
        "print(c._load.cache_info().currsize, *heavy)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert printed.stdout.split() == ["True", "0"]
