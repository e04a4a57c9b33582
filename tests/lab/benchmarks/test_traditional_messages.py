"""Messages of traditional speculation: what they hold comes out again, and what is none is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import RemoteProtocolError
from lab.bench.traditional.channel import PACKET_BYTES
from lab.bench.traditional.messages import (
    MAX_BYTES,
    PLAIN,
    ZSTD,
    Guesses,
    Message,
    Start,
    Verdict,
    decode,
    encode,
    guesses,
    sent_with,
)
from lab.bench.traditional.probabilities import Sent, send_all, send_top

START = Start("ids", 7, (1, 300), 0.5, 0, 1.0, 2**64 - 1, (2,))


def row(*values: float) -> npt.NDArray[np.float16]:
    return np.array(values, dtype=np.float16)


GOLDEN: list[tuple[Message, str]] = [
    (START, "009901a3696473079201cd012ccb3fe000000000000000cb3ff0000000000000cfffffffffffffffff9102"),
    (guesses(7, 1, (5, 300), []), "00960207019205cd012cc400c400"),
    (guesses(7, 2, (1,), [Sent(row(0.5, 0.25, 0.25))]), "00960207029101c406003800340034c400"),
    (
        guesses(7, 3, (9,), [Sent(row(0.75, 0.25), np.array([9, 300], dtype=np.uint32))]),
        "00960207039109c404003a0034c40409002c01",
    ),
    (
        guesses(7, 3, (9,), [Sent(row(0.75, 0.25), np.array([9, 70_000], dtype=np.uint32))]),
        "00960207039109c404003a0034c4080900000070110100",
    ),
    (Verdict(7, 3, (5, 6)), "0094030703920506"),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN)
def test_golden_bytes(message: Message, golden: str) -> None:
    assert encode(message).hex() == golden
    assert decode(bytes.fromhex(golden)) == message


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, list[int], list[Sent]]:
    """Size of a vocabulary, and guesses in it with whole distributions, parts of them, or none."""
    vocab_size = draw(st.sampled_from([3, 40, 70_000]))
    tokens = draw(st.lists(st.integers(0, vocab_size - 1), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept = draw(st.sampled_from([None, 0, 1, 3]))
    sent = []
    for _ in tokens if kept != 0 else ():
        q = rng.dirichlet(np.full(min(vocab_size, 100), 0.1))
        ids = np.sort(rng.choice(vocab_size, len(q), replace=False))
        sent.append(send_all(q, ids, vocab_size) if kept is None else send_top(q, ids, kept))
    return vocab_size, tokens, sent


@given(rounds(), st.booleans())
def test_a_round_comes_out_as_it_went_in(one: tuple[int, list[int], list[Sent]], compressed: bool) -> None:
    vocab_size, tokens, sent = one
    data = encode(guesses(3, 4, tokens, sent), compressed=compressed)
    found = decode(data)
    assert isinstance(found, Guesses)
    assert (found.text, found.round, found.tokens) == (3, 4, tuple(tokens))
    arrived = sent_with(found, vocab_size)
    assert len(arrived) == len(sent)
    for mine, theirs in zip(sent, arrived, strict=True):
        # To the bit: the target must compare with what the device draws from.
        assert np.array_equal(mine.spread(vocab_size), theirs.spread(vocab_size))
    plain = encode(guesses(3, 4, tokens, sent))
    assert len(data) <= len(plain)


def test_what_is_sent_of_a_distribution() -> None:
    q, ids = np.array([0.5, 0.125, 0.375]), np.array([1, 4, 6])
    assert send_all(q, ids, 8).spread(8) == pytest.approx([0, 0.5, 0, 0, 0.125, 0, 0.375, 0])
    assert send_all(q, None, 3).spread(3) == pytest.approx(q)
    assert send_top(q, ids, 2).spread(8) == pytest.approx([0, 4 / 7, 0, 0, 0, 0, 3 / 7, 0])
    assert send_top(q, None, 1).spread(3) == pytest.approx([1, 0, 0])
    assert send_top(q, None, 64).spread(3) == pytest.approx(q)


def test_sizes_of_a_round() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.dirichlet(np.full(49_152, 0.01)) for _ in range(5)]
    tokens = [40_000] * 5
    whole = len(encode(guesses(1, 1, tokens, [send_all(q, None, 49_152) for q in rows])))
    assert 0 <= whole - 5 * 49_152 * 2 < 40
    assert whole < PACKET_BYTES < MAX_BYTES
    top = len(encode(guesses(1, 1, tokens, [send_top(q, None, 64) for q in rows])))
    assert 0 <= top - 5 * 64 * 4 < 40
    assert len(encode(guesses(1, 1, tokens, []))) < 40


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02" + encode(START)[1:],
        encode(START)[:-1],
        encode(START) + b"\x00",
        b"\x00" + msgspec.msgpack.encode([9, 1, 2]),
        b"\x00" + msgspec.msgpack.encode([3, 1, 1, []]),
        b"\x00" + msgspec.msgpack.encode([2, 1, 1, [-1]]),
        bytes((ZSTD,)) + b"no frame",
        bytes((ZSTD,)) + zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 100),
        bytes((ZSTD,)) + zstandard.ZstdCompressor().compress(bytes(MAX_BYTES + 1)),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@pytest.mark.parametrize(
    "message",
    [
        Guesses(1, 1, (1, 2), bytes(4 * 5)),
        Guesses(1, 1, (1, 2), bytes(3)),
        Guesses(1, 1, (), bytes(8)),
        Guesses(1, 1, (1,), bytes(8), bytes(7)),
        Guesses(1, 1, (1,), bytes(4), bytes(6)),
        Guesses(1, 1, (1,), bytes(4), b"\x01\x00\x04\x00"),
    ],
)
def test_probabilities_of_another_vocabulary_are_refused(message: Guesses) -> None:
    with pytest.raises(RemoteProtocolError, match="do not belong to"):
        sent_with(message, 4)


def test_a_compressed_message_is_smaller() -> None:
    message = guesses(1, 1, (1,), [send_all(np.array([1.0]), np.array([7]), 49_152)])
    data = encode(message, compressed=True)
    assert data[0] == ZSTD
    assert len(data) < 200
    assert decode(data) == message
    assert encode(Verdict(1, 1, (2,)), compressed=True)[0] == PLAIN
