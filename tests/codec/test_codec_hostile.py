"""Whatever the bytes are: a message or a `RemoteProtocolError`, in little memory."""

import random
import tracemalloc

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.codec import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Codec, TooManyTokens
from flexspec_mq.codec.codec import flag_byte
from flexspec_mq.codec.compression import CURRENT, PLAIN
from flexspec_mq.codec.limits import FREE_BYTES, MAX_EXPANSION
from flexspec_mq.codec.wire import message_to_body
from flexspec_mq.errors import RemoteProtocolError
from schemas.messages import MAX_PROMPT_TOKENS, Message, Open
from tests.codec.samples import IDENTITY, SAMPLES, messages, pack, zstd

CODEC = Codec()

HEADER_ONLY = 200_000
"""Bytes that a refusal may take when it needs only look at a header; most of it is the traceback's."""


def outcome(payload: bytes) -> Message | None:
    """The message, or None if the payload was refused as it should be; any other exception fails the test."""
    try:
        message = CODEC.decode(payload)
    except RemoteProtocolError:
        return None
    assert CODEC.decode(CODEC.encode(message)) == message
    return message


def peak_of_refusal(payload: bytes) -> int:
    """The most bytes allocated at once while `payload` is refused."""
    CODEC.decode(zstd(message_to_body(SAMPLES["close"])))  # makes this thread's context, once
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(payload)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=10) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(message=messages, data=st.data())
@settings(max_examples=100)
def test_one_field_of_another_type(message: Message, data: st.DataObject) -> None:
    fields = msgspec.msgpack.decode(message_to_body(message))
    fields[data.draw(st.integers(0, len(fields) - 1))] = data.draw(values)
    outcome(pack(*fields))


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_at_every_length_or_longer_than_it_says(name: str) -> None:
    for whole in (CODEC.encode(SAMPLES[name]), zstd(message_to_body(SAMPLES[name]))):
        pieces = (whole[:length] for length in range(len(whole)))
        for payload in (*pieces, whole + b"\x00", whole + whole, whole + b"\xc0" * 100):
            with pytest.raises(RemoteProtocolError):
                CODEC.decode(payload)


OPEN_HEAD = b"\x99\x01\x01\x01\x99\x01\xc4\x10" + bytes(16) + b"\x00\x00\x01\x00"
BEYOND = (2**32 - 1).to_bytes(4, "big")


@pytest.mark.parametrize(
    "body",
    [
        b"\xdd" + BEYOND + b"\x02",
        b"\xdf" + BEYOND + b"\x02",
        b"\x99\x02\xc6" + BEYOND,
        b"\x99\x02\x01\x01\x01\x01\x01\x01\xc6" + BEYOND + b"\x00" * 100,
        b"\x97\x06\x01\x01\x01\x01\xa1w\xdb" + BEYOND + b"a" * 100,
        b"\x96\x04\x01\x01\x01\x00\xdd" + BEYOND,
        b"\x96\x04\x01\x01\x01\x00\xc9" + BEYOND + b"\x01",
        OPEN_HEAD + b"\xdd" + BEYOND,
        OPEN_HEAD + b"\xdc\xff\xff" + b"\x01" * 60_000,
    ],
)
def test_huge_declared_lengths_allocate_nothing(body: bytes) -> None:
    assert peak_of_refusal(flag_byte(0) + body) < HEADER_ONLY


@pytest.mark.parametrize("depth", [100, 10_000, MAX_PAYLOAD_BYTES - 10])
@pytest.mark.parametrize("head", [b"", b"\x99\x02", b"\x96\x04\x01\x01\x01\x00", OPEN_HEAD])
def test_deep_nesting(depth: int, head: bytes) -> None:
    outcome((flag_byte(0) + head + b"\x91" * depth)[:MAX_PAYLOAD_BYTES])
    outcome((flag_byte(0) + head + b"\x81\xc0" * (depth // 2))[:MAX_PAYLOAD_BYTES])


def test_nesting_deeper_than_the_stack_is_refused_where_it_would_be_skipped() -> None:
    with pytest.raises(RemoteProtocolError, match="recursion"):
        CODEC.decode(flag_byte(0) + b"\x96\x04\x01\x01\x01\x00" + b"\x91" * 100_000 + b"\xc0")


def test_a_frame_that_says_less_than_it_holds() -> None:
    """The descriptor's top bits say that the size takes four bytes, behind the descriptor."""
    bomb = zstd(bytes(2**20 - 1))
    assert bomb[1] >> 6 == 2
    assert int.from_bytes(bomb[2:6], "little") == 2**20 - 1
    lies = bomb[:2] + (1000).to_bytes(4, "little") + bomb[6:]
    assert peak_of_refusal(lies) < HEADER_ONLY


def test_no_window_is_allocated_that_is_larger_than_a_body() -> None:
    """A descriptor of this kind asks for a window, whose exponent is ten plus the top five bits of the next byte.

    zstd needs that window only while the frame is not complete.
    """
    window_log = 26
    block = (1 << 3 | 1).to_bytes(3, "little") + b"\xc0"
    frame = bytes((0b1000_0000, (window_log - 10) << 3)) + (1).to_bytes(4, "little") + block
    header = zstandard.get_frame_parameters(frame, zstandard.FORMAT_ZSTD1_MAGICLESS)
    assert (header.window_size, header.content_size) == (2**26, 1)
    with pytest.raises(RemoteProtocolError, match="not a message: Expected `array`, got `None`"):
        CODEC.decode(flag_byte(1) + frame)
    with pytest.raises(RemoteProtocolError, match="too much memory"):
        CODEC.decode(flag_byte(1) + frame[:-1])


@pytest.mark.parametrize("declare_size", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        1000,
        MAX_BODY_BYTES,
        MAX_BODY_BYTES + 1,
        2**27,
        b"\x9f" + b"\x90" * (MAX_BODY_BYTES - 1),
        b"\x91" * MAX_BODY_BYTES,
        OPEN_HEAD + b"\xdd" + (10**6).to_bytes(4, "big") + b"\x01" * 10**6,
        b"\x99\x02\xdb" + (10**6).to_bytes(4, "big") + b"a" * 10**6,
        b"\x99\x02\xc6" + (10**6).to_bytes(4, "big") + b"a" * 10**6,
    ],
)
def test_bodies_that_decompress_well_or_say_no_size_are_refused_by_their_header(
    body: bytes | int, declare_size: bool
) -> None:
    """A number stands for so many zeros."""
    payload = zstd(bytes(body), declare_size=declare_size)
    assert len(payload) < 10_000
    assert peak_of_refusal(payload) < HEADER_ONLY


def test_what_pays_for_just_its_body_is_read_and_one_byte_more_is_refused() -> None:
    """The end of the prompt is noise, so that the frame's size can be chosen."""
    size = next(
        size for size in range(2000) if MAX_EXPANSION * (len(zstd(_body(size))) - 1) >= len(_body(size))
    )
    enough, too_little = _body(size), _body(size - 1)
    assert len(enough) > 10 * FREE_BYTES
    assert isinstance(CODEC.decode(zstd(enough)), Open)
    with pytest.raises(RemoteProtocolError, match="declares no size, or more than"):
        CODEC.decode(zstd(too_little))


def _body(noise: int) -> bytes:
    draw = random.Random(1)
    prompt = (5,) * 20_000 + tuple(draw.randrange(128) for _ in range(noise))
    return message_to_body(Open(1, 1, IDENTITY, prompt, (), 0, 1, ()))


def test_a_prompt_that_repeats_itself_travels_as_it_is_and_is_read() -> None:
    long = Open(1, 1, IDENTITY, (5, 300) * 4000, (), 0, 1, ())
    payload = CODEC.encode(long)
    assert payload == flag_byte(PLAIN) + message_to_body(long)
    assert CODEC.decode(payload) == long


@pytest.mark.parametrize(
    ("prompt", "committed", "says"),
    [
        (131_073, 0, r"Open.prompt: 131073 tokens, not between 1 and 131072"),
        (200_000, 0, r"Open.prompt: 200000 tokens"),
        (1, 131_073, r"Open.committed: 131073 tokens"),
        (1, 131_072, r"Open has 131073 tokens, more than 131072"),
    ],
)
def test_too_many_tokens_are_counted_before_they_are_unpacked(prompt: int, committed: int, says: str) -> None:
    identity = msgspec.to_builtins(IDENTITY, builtin_types=(bytes,))
    payload = pack(1, 1, 1, identity, (5,) * prompt, (5,) * committed, 0, 0, ())
    assert peak_of_refusal(payload) < 2 * len(payload) + HEADER_ONLY
    with pytest.raises(RemoteProtocolError, match=says):
        CODEC.decode(payload)


@given(message=messages, most=st.integers(0, 500))
def test_a_receiver_reads_no_more_tokens_than_it_can_use(message: Message, most: int) -> None:
    """A message with more tokens is refused with the name of its session, so that its sender can be told."""
    fields = ("prompt", "committed", "draft", "tokens")
    total = sum(len(getattr(message, field, ())) for field in fields)
    payload, codec = CODEC.encode(message), Codec(most)
    if total <= most:
        assert codec.decode(payload) == message
        return
    with pytest.raises(TooManyTokens, match=f"has {total} tokens, more than {most}") as refused:
        codec.decode(payload)
    assert (refused.value.session, refused.value.attempt) == (message.session, message.attempt)


def test_the_largest_valid_message_stays_within_a_few_megabytes() -> None:
    payload = CODEC.encode(Open(1, 1, IDENTITY, (100,) * MAX_PROMPT_TOKENS, (), 0, 0, ()))
    tracemalloc.start()
    try:
        assert isinstance(CODEC.decode(payload), Open)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


def test_a_frame_made_with_another_dictionary() -> None:
    payload = CODEC.encode(SAMPLES["open"])
    assert payload[0] & 15 == CURRENT
    with pytest.raises(RemoteProtocolError, match=r"zstd frame is broken|not a message"):
        CODEC.decode(flag_byte(1) + payload[1:])
    with pytest.raises(RemoteProtocolError, match="compression 14 is unknown"):
        CODEC.decode(flag_byte(14) + payload[1:])
