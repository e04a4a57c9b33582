"""Messages of traditional speculation: what they hold comes out again, and what is none is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import RemoteProtocolError
from lab.traditional.channel import PACKET_BYTES
from lab.traditional.messages import MAX_BYTES, Guesses, Message, RoundVerdict, Start, decode, encode
from lab.traditional.speculation import Halves, distribution, rounded

START = Start("ids", 7, (1, 300), 0.5, 0, 1.0, 2**64 - 1, (2,))
GOLDEN: list[tuple[Message, str]] = [
    (START, "9901a3696473079201cd012ccb3fe000000000000000cb3ff0000000000000cfffffffffffffffff9102"),
    (Guesses.made(7, 1, (5, 300), []), "950207019205cd012cc400"),
    (
        Guesses.made(7, 2, (1,), [np.array([0.5, 0.25, 0.25], dtype=np.float16)]),
        "950207029101c406003800340034",
    ),
    (RoundVerdict(7, 3, (5, 6)), "94030703920506"),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN)
def test_golden_bytes(message: Message, golden: str) -> None:
    assert encode(message).hex() == golden
    assert decode(bytes.fromhex(golden)) == message


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, list[int], list[Halves]]:
    """Size of a vocabulary, and guesses in it with distributions or without."""
    vocab_size = draw(st.sampled_from([3, 40, 70_000]))
    tokens = draw(st.lists(st.integers(0, vocab_size - 1), max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sent = []
    for _ in tokens if draw(st.booleans()) else ():
        q = rng.dirichlet(np.full(min(vocab_size, 100), 0.1))
        sent.append(rounded(q, np.sort(rng.choice(vocab_size, len(q), replace=False)), vocab_size))
    return vocab_size, tokens, sent


@given(rounds())
def test_a_round_comes_out_as_it_went_in(one: tuple[int, list[int], list[Halves]]) -> None:
    vocab_size, tokens, sent = one
    found = decode(encode(Guesses.made(3, 4, tokens, sent)))
    assert isinstance(found, Guesses)
    assert (found.text, found.round, found.tokens) == (3, 4, tuple(tokens))
    arrived = found.distributions(vocab_size)
    assert len(arrived) == len(sent)
    for mine, theirs in zip(sent, arrived, strict=True):
        # To the bit: the target must compare with what the device draws from.
        assert np.array_equal(distribution(mine), distribution(theirs))


def test_what_is_sent_of_a_distribution() -> None:
    q, ids = np.array([0.5, 0.125, 0.375]), np.array([1, 4, 6])
    assert distribution(rounded(q, ids, 8)) == pytest.approx([0, 0.5, 0, 0, 0.125, 0, 0.375, 0])
    assert distribution(rounded(q, None, 3)) == pytest.approx(q)


def test_sizes_of_a_round() -> None:
    rng = np.random.default_rng(0)
    rows = [rounded(rng.dirichlet(np.full(49_152, 0.01)), None, 49_152) for _ in range(5)]
    whole = len(encode(Guesses.made(1, 1, [40_000] * 5, rows)))
    assert 0 <= whole - 5 * 49_152 * 2 < 40
    assert whole < PACKET_BYTES < MAX_BYTES
    assert len(encode(Guesses.made(1, 1, [40_000] * 5, []))) < 40


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(START)[:-1],
        encode(START) + b"\x00",
        msgspec.msgpack.encode([9, 1, 2]),
        msgspec.msgpack.encode([3, 1, 1, []]),
        msgspec.msgpack.encode([2, 1, 1, [-1]]),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@pytest.mark.parametrize(
    "message",
    [Guesses(1, 1, (1, 2), bytes(4 * 5)), Guesses(1, 1, (1, 2), bytes(3)), Guesses(1, 1, (), bytes(8))],
)
def test_probabilities_of_another_vocabulary_are_refused(message: Guesses) -> None:
    with pytest.raises(RemoteProtocolError, match="bytes of probabilities, not"):
        message.distributions(4)
