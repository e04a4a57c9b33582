"""The digest chain, and the view that goes with it."""

from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.digest import TokenView
from lab.simulator.world import FINGERPRINT, identity

TOKENS = st.lists(st.integers(0, 2**24 - 1), max_size=30)


def test_the_root_is_pinned() -> None:
    """Computed here by hand: a change would make two releases disagree about every text."""
    packed = (
        bytes([0x9A, 2, 0xA1]) + b"v" + bytes([0xC4, 16]) + FINGERPRINT
        + bytes.fromhex("cb3fe6666666666666") + bytes([40]) + bytes.fromhex("cb3feccccccccccccd")
        + bytes([1, 0x91, 49, 0xC2, 40])
    )  # fmt: skip
    assert chains.root(identity(), "v") == crc32(packed)


@pytest.mark.parametrize(
    "change",
    [
        {"eos": (48,)}, {"ignore_eos": True}, {"limit": 41}, {"noise": 1}, {"fingerprint": bytes(16)},
        *({"sampling": replace(identity().sampling, **{name: value})} for name, value in (
            ("temperature", 0.8), ("top_k", 41), ("top_p", 0.91), ("seed", 2), ("min_p", 0.05),
        )),
    ],
)  # fmt: skip
def test_everything_that_determines_the_text_is_in_the_root(change: dict[str, object]) -> None:
    other = replace(identity(), **change)
    assert chains.root(other, "v") != chains.root(identity(), "v")
    assert chains.root(identity(), "other") != chains.root(identity(), "v")


@given(TOKENS, TOKENS, st.integers(0, 29), st.integers(1, 2**24 - 1))
def test_one_wrong_token_is_caught_at_every_later_position(
    prompt: list[int], tokens: list[int], at: int, wrong: int
) -> None:
    right = chains.chain_for(identity(), "v", prompt)
    right.extend(tokens)
    assert right.digest(len(tokens)) == chains.after_all(right.digest(0), tokens)
    if at >= len(tokens):
        return
    other = chains.chain_for(identity(), "v", prompt)
    other.extend([*tokens[:at], tokens[at] ^ wrong, *tokens[at + 1 :]])
    assert all(other.digest(p) == right.digest(p) for p in range(at + 1))
    assert all(other.digest(p) != right.digest(p) for p in range(at + 1, len(tokens) + 1))
    assert right.mismatch(0, other.tokens(0, len(other))) == at


def test_a_cut_leaves_older_views_alone() -> None:
    chain = chains.chain_for(identity(), "v", (1,))
    chain.extend((5, 6, 7))
    before = chain.view((1,))
    chain.cut(1)
    chain.append(9)
    assert tuple(before) == (1, 5, 6, 7)
    assert tuple(chain.view((1,))) == (1, 5, 9)
    with pytest.raises(LocalProtocolError):
        chain.digest(3)


@given(TOKENS, TOKENS, st.integers(0, 30), st.slices(60))
def test_a_view_reads_like_a_tuple(head: list[int], tail: list[int], length: int, part: slice) -> None:
    length = min(length, len(tail))
    view = TokenView(tuple(head), tail, length)
    plain = (*head, *tail[:length])
    assert len(view) == len(plain)
    assert tuple(view) == plain
    assert view[part] == plain[part]
    assert all(view[i] == plain[i] for i in range(-len(plain), len(plain)))
    with pytest.raises(IndexError):
        view[len(plain)]


def test_round_trips_leave_out_the_worker_and_count_each_question_once() -> None:
    rtt = RoundTrip()
    assert rtt.timeout == 1.0
    rtt.sent(1, 0.0)
    rtt.sent(2, 0.1)
    rtt.answered(2, 20, 30, 0.25)
    assert rtt.smoothed == pytest.approx(0.1)
    rtt.answered(2, 0, 0, 9.0)
    rtt.answered(1, 0, 0, 9.0)
    assert rtt.smoothed == pytest.approx(0.1)
    assert rtt.timeout == pytest.approx(0.1 + 0.2 + 0.05 + 0.03)
    for seq in range(3, 1000):
        rtt.sent(seq, 10.0)
    assert len(rtt._sent) == 64


TRIPS = st.floats(0.001, 0.05)


def known(trip: float) -> RoundTrip:
    """A round trip that eight answers have told, one a second from 1."""
    rtt = RoundTrip()
    for seq in range(1, 9):
        rtt.sent(seq, seq)
        assert rtt.answered(seq, 0, 10, seq + trip + 0.01) == pytest.approx(trip)
    return rtt


@given(TRIPS, st.floats(0.3, 4.0), st.floats(0.01, 0.29))
def test_a_second_late_answer_tells_a_longer_round_trip_if_the_link_was_heard_before_its_question(
    before: float, after: float, silence: float
) -> None:
    rtt = known(before)
    rtt.sent(9, 20.0, question=True)
    heard = 20.0 + rtt.timeout + silence
    rtt.sent(10, heard - 0.01)  # it would be late after a standstill too
    rtt.answered(0, 0, 10, heard)  # a verdict of look-ahead
    assert rtt.doubted_at == heard
    rtt.sent(11, heard)
    found = []
    for seq, now in ((9, max(heard, 20.0 + after)), (10, heard - 0.01 + after), (11, heard + after)):
        found.append((rtt.answered(seq, 0, 0, now), rtt.jumped))
    assert found == [(None, False), (None, False), (pytest.approx(after), True)]
    assert rtt.unstalled == pytest.approx(after)
    assert rtt.doubted_at is None


@given(TRIPS, st.floats(0.3, 30.0))
def test_a_link_that_stood_still_and_is_heard_again_has_the_round_trip_that_it_had(
    trip: float, still: float
) -> None:
    rtt = known(trip)
    rtt.sent(9, 20.0, question=True)
    back = 20.0 + still
    rtt.sent(10, back - 0.01)
    rtt.answered(0, 0, 10, back)
    rtt.sent(11, back)
    assert rtt.answered(9, 0, 0, back + trip / 2) is None
    assert rtt.answered(10, 0, 0, back + trip / 2) is None
    assert rtt.answered(11, 0, 0, back + trip) == pytest.approx(trip)
    assert not rtt.jumped
    assert rtt.doubted_at is None


def test_a_round_trip_that_got_longer_for_good_is_soon_measured() -> None:
    rtt = RoundTrip()
    found = []
    for seq in range(1, 13):
        takes = 0.05 if seq < 9 else 0.6
        rtt.sent(seq, seq)
        rtt.answered(seq, 0, 10, seq + takes + 0.01)
        found.append(rtt.unstalled)
    assert found[7] == pytest.approx(0.05)
    assert found[-1] == pytest.approx(0.6)
