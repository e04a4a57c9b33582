"""The envelope around a payload: bytes that never change, and nothing that is believed without its key."""

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flexspec_mq.codec import MAX_PAYLOAD_BYTES, Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.agreement import SessionContext, public_key, share
from flexspec_mq.keys.envelope import (
    MARKER,
    SEAL,
    STEP,
    WIDTH,
    Introduction,
    ReplayWindow,
    Sealer,
    bucket,
    enveloped,
    is_keyed,
    key_wanted,
    read_envelope,
    wanted_session,
)
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from schemas.messages import Fin, Verdict

GOLDEN = Path(__file__).parent / "golden" / "v1-envelopes.hex"
KEYS = st.binary(min_size=32, max_size=32)
PLAIN = st.builds(lambda code, body: bytes((0x10 | code,)) + body, st.integers(0, 14), st.binary(min_size=1))
INTRODUCTIONS = st.builds(
    Introduction, KEYS, st.binary(max_size=300), st.from_regex(r"[A-Za-z0-9._-]{0,64}", fullmatch=True)
)
NUMBERS = st.integers(0, 2**32 - 1)
VERDICT = Codec().encode(Verdict(7, 1, 2, 130, (198, 30), 0x12345678, Fin.NONE, 3, 61))
KEY = bytes(range(32))
INTRODUCTION = Introduction(bytes(range(32, 64)), b"a credential", "base")


def made(*, introduction: Introduction | None = None, counter: int = 300, plain: bytes = VERDICT) -> bytes:
    return enveloped(Sealer(KEY), plain, session=7, counter=counter, introduction=introduction)


def samples() -> dict[str, bytes]:
    mine, theirs = (bytes([first, *range(1, 32)]) for first in (1, 2))
    session = SessionContext("kitchen", b"serial-1", "base", 7, public_key(mine))
    one = share(X25519PrivateKey.from_private_bytes(mine), public_key(theirs))
    keys = session.session_keys((one, one, one), "w1", b"serial-2", public_key(theirs))
    return {
        "sealed": made(),
        "sealed-introduced": made(introduction=INTRODUCTION),
        "key-wanted": key_wanted(0xDEADBEEF),
        "opening-key": session.opening_key((one, one), public_key(theirs)),
        "session-up": keys[0],
        "session-down": keys[1],
    }


def test_bytes_of_version_1_do_not_change() -> None:
    lines = GOLDEN.read_text(encoding="ascii").splitlines()
    assert samples() == {name: bytes.fromhex(digits) for name, digits in (line.split() for line in lines)}


@given(KEYS, PLAIN, NUMBERS, NUMBERS, st.none() | INTRODUCTIONS)
@example(bytes(32), b"\x10" + bytes(STEP - 1), 7, 1, None)
@example(bytes(32), b"\x10\x80\x00", 7, 1, None)
def test_who_has_the_key_reads_what_was_meant(
    key: bytes, plain: bytes, session: int, counter: int, introduction: Introduction | None
) -> None:
    payload = enveloped(Sealer(key), plain, session=session, counter=counter, introduction=introduction)
    assert is_keyed(payload)
    assert wanted_session(payload) is None
    envelope = read_envelope(payload)
    assert (envelope.session, envelope.counter, envelope.introduction) == (session, counter, introduction)
    assert envelope.opened(Sealer(key)) == plain
    with pytest.raises(KeysRefused) as refused:
        envelope.opened(Sealer(bytes(32) if any(key) else bytes([1] * 32)))
    assert refused.value.reason is KeyReason.FORGED


@settings(max_examples=100)
@given(st.none() | st.just(INTRODUCTION), st.data())
def test_no_changed_bit_is_believed(introduction: Introduction | None, data: st.DataObject) -> None:
    payload = bytearray(made(introduction=introduction))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(KeysRefused):
        read_envelope(bytes(payload)).opened(Sealer(KEY))


@pytest.mark.parametrize("introduction", [None, INTRODUCTION])
def test_no_piece_is_believed(introduction: Introduction | None) -> None:
    payload = made(introduction=introduction)
    for end in range(len(payload)):
        with pytest.raises(KeysRefused) as refused:
            read_envelope(payload[:end]).opened(Sealer(KEY))
        assert refused.value.reason in {KeyReason.MALFORMED, KeyReason.FORGED}
    with pytest.raises(KeysRefused):
        read_envelope(payload + b"\0").opened(Sealer(KEY))


@given(st.binary(max_size=400))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    for payload in (noise, bytes((MARKER,)) + noise):
        with pytest.raises(KeysRefused):
            read_envelope(payload).opened(Sealer(KEY))


@given(st.integers(1, MAX_PAYLOAD_BYTES))
@example(STEP)
@example(STEP + 1)
def test_sizes_are_few_and_cost_little(size: int) -> None:
    padded = bucket(size)
    assert size <= padded < size + max(STEP, 0.12 * size)
    assert bucket(padded) == padded
    exponent = size.bit_length() - 1  # PADMÉ: of a size's bits no more count than its exponent has
    assert padded % max(STEP, 2 ** (exponent - exponent.bit_length())) == 0
    for counter, varint in ((1, 1), (127, 1), (128, 2), (16_383, 2)):
        head = 1 + 1 + 4 + varint  # marker, kind, session, counter
        assert len(made(counter=counter, plain=b"\x10" + bytes(size - 1))) == head + padded + SEAL


@pytest.mark.parametrize("content", [bytes(STEP), b"\x01".ljust(STEP, b"\0"), b""], ids=len)
def test_padding_that_is_none_is_refused(content: bytes) -> None:
    head = made()[:8]
    with pytest.raises(KeysRefused) as refused:
        read_envelope(Sealer(KEY).sealed(head, content, 300)).opened(Sealer(KEY))
    assert refused.value.reason is KeyReason.MALFORMED
    without = bytes((head[0], head[1] ^ 0x80)) + head[2:]  # a kind that said so, once
    with pytest.raises(KeysRefused) as refused:
        read_envelope(Sealer(KEY).sealed(without, content, 300))
    assert refused.value.hint == "update this program"


def test_a_side_without_keys_says_so() -> None:
    """The codec uses every compression code but the one that marks an envelope."""
    with pytest.raises(RemoteProtocolError, match="under keys") as refused:
        Codec().decode(made())
    assert "--keys" in refused.value.hint


@given(NUMBERS)
def test_a_key_is_wanted_for_a_session(session: int) -> None:
    payload = key_wanted(session)
    assert wanted_session(payload) == session
    assert is_keyed(payload)
    with pytest.raises(KeysRefused):
        read_envelope(payload)
    for other in (payload[:-1], payload + b"\0", VERDICT):
        assert wanted_session(other) is None


def test_anything_that_differs_gives_other_keys() -> None:
    base = SessionContext("kitchen", b"serial-1", "base", 7, bytes(32))
    sessions = [
        base,
        replace(base, edge="cellar"),
        replace(base, device=b"serial-2"),
        replace(base, version="next"),
        replace(base, number=8),
        replace(base, ephemeral=bytes([1] * 32)),
    ]
    shares = (b"1" * 32, b"2" * 32, b"3" * 32)
    keys: set[bytes] = set()
    for session in sessions:
        keys.add(session.opening_key(shares[:2], bytes(32)))
        for peer in (("w1", b"s", b"e"), ("w2", b"s", b"e"), ("w1", b"t", b"e"), ("w1", b"s", b"f")):
            keys |= {*session.session_keys(shares, *peer)}
    assert len(keys) == len(sessions) * (1 + 2 * 4)


def test_a_key_of_small_order_is_refused() -> None:
    with pytest.raises(KeysRefused, match="small order"):
        share(X25519PrivateKey.generate(), bytes(32))


@given(st.lists(st.integers(0, 3 * WIDTH) | st.integers(0, 40), max_size=200))
@example([WIDTH, 1, 0, 2**32 - 1, WIDTH])
def test_it_takes_what_a_set_of_the_newest_would(counters: list[int]) -> None:
    window, taken = ReplayWindow(), set[int]()
    for counter in counters:
        late = bool(taken) and counter <= max(taken) - WIDTH
        if counter in taken or late:
            with pytest.raises(KeysRefused) as refused:
                window.take(counter)
            assert refused.value.reason is KeyReason.REPLAYED
        else:
            window.take(counter)
            taken.add(counter)
