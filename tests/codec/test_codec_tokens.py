from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.codec.tokens import count_tokens, pack_tokens, unpack_tokens
from schemas.messages import MAX_TOKEN_ID
from tests.codec.strategies import tokens


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
    assert unpack_tokens(bytes.fromhex(packed), at_least=1, at_most=1) == (token,)


@given(ids=tokens(0, 200))
def test_round_trip_and_count(ids: tuple[int, ...]) -> None:
    packed = pack_tokens(ids)
    assert count_tokens(packed) == len(ids)
    assert unpack_tokens(packed, at_least=len(ids), at_most=len(ids)) == ids


@given(packed=st.binary(max_size=64))
def test_any_bytes_are_refused_or_the_one_encoding_of_their_tokens(packed: bytes) -> None:
    try:
        ids = unpack_tokens(packed, at_least=0, at_most=64)
    except ValueError:
        return
    assert pack_tokens(ids) == packed


def test_too_few_and_too_many() -> None:
    with pytest.raises(ValueError, match="0 tokens, not between 1 and 2"):
        unpack_tokens(b"", at_least=1, at_most=2)
    with pytest.raises(ValueError, match="3 tokens, not between 1 and 2"):
        unpack_tokens(b"\x01\x02\x03", at_least=1, at_most=2)
