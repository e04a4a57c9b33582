"""Messages and statuses: what is encoded is decoded, fields of newer peers are skipped, golden bytes never change."""

import json
import random
import threading
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import msgpack
import msgspec
import pytest
from hypothesis import given

from flexspec_mq.codec import MAX_PAYLOAD_BYTES, MAX_STATUS_BYTES, Codec
from flexspec_mq.codec.compression import CURRENT, DICTIONARIES, MIN_BYTES, ZSTD, dictionary
from flexspec_mq.codec.wire import message_to_body
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError, UsageError
from schemas.messages import (
    MAX_PROMPT_TOKENS,
    Close,
    CloseReason,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Message,
    Open,
    Sampling,
    Verdict,
)
from schemas.status import AddedToken, EdgeStatus, TargetText, WorkerStatus
from tests.codec.samples import BY_TYPE, IDENTITY, SAMPLES, messages, pack

CODEC = Codec()

ROWS = json.loads(Path(__file__).with_name("unseen_rows.json").read_text(encoding="utf-8"))


def test_there_is_a_strategy_and_a_sample_for_every_message_type() -> None:
    assert set(BY_TYPE) == set(get_args(Message)) == {type(sample) for sample in SAMPLES.values()}


@pytest.mark.parametrize("kind", BY_TYPE)
def test_round_trip_of_each_type(kind: type[Message]) -> None:
    @given(message=BY_TYPE[kind])
    def check(message: Message) -> None:
        again = CODEC.decode(CODEC.encode(message))
        assert again == message
        assert type(again) is type(message)

    check()


@given(message=messages)
def test_fields_that_a_newer_peer_appends_are_skipped(message: Message) -> None:
    plain = msgspec.msgpack.decode(message_to_body(message))
    skippable: tuple[object, ...] = ({"a": [1, 2.5, None]}, b"x" * 100, [[[]]], "text")
    defaults: dict[int, list[object]] = {
        1: [None, 0, 0, b"", 0],
        2: [0],
        3: [0],
        5: [None, 0, 0, None, None, 0, 0],
        6: [""],
    }
    filled = defaults.get(plain[0], [])
    missing = len(msgspec.structs.fields(message)) + 1 - len(plain)
    padding = filled[len(filled) - missing :] if missing else []
    assert CODEC.decode(pack(*plain, *padding, *skippable)) == message


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "empty"),
        (b"\x20\x95\x04\x01\x01\x01\x00", "protocol version 2, this is version 1"),
        (b"\x00\x95\x04\x01\x01\x01\x00", "protocol version 0, this is version 1"),
        (b"\x1e\x95\x04\x01\x01\x01\x00", "compression 14 is unknown here"),
        (b"\x1f\x95\x04\x01\x01\x01\x00", "under keys, and this side has none"),
        (b"\x10", "not a message: Input data was truncated"),
        (b"\x10\xc0", "not a message: Expected `array`"),
        (pack(), "not a message"),
        (pack(9, 1, 2), "message type 9 is unknown"),
        (pack("open"), "not a message"),
        (pack(4, 1, 1), r"Close: Expected `array` of at least length 5, got 3"),
        (pack(4, 2**32, 1, 1, 0), "Close: Expected `int` <= 4294967295 - at `session`"),
        (pack(4, 1, -1, 1, 0), "Close: Expected `int` >= 0 - at `attempt`"),
        (pack(4, 1, 1, 1.0, 0), "Close: Expected `int`, got `float` - at `have`"),
        (pack(4, 1, 1, 1, 9), "Close: Invalid enum value 9 - at `reason`"),
        (pack(4, 1, 1, True, 0), "Close: Expected `int`, got `bool` - at `have`"),
        (pack(4, 1, 1, 1, 0) + b"\x00", "trailing"),
        (pack(2, 1, 1, 1, 0, 0, 0, [1, 2], 0), "Draft: Expected `bytes`, got `array` - at `tokens`"),
        (pack(2, 1, 1, 1, 0, 0, 0, (1,) * 65, 0), "Draft.tokens: 65 tokens, not between 0 and 64"),
        (pack(2, 1, 1, 1, 0, 0, 0, b"\x80", 0), "Draft.tokens: the last token is cut off"),
        (pack(2, 1, 1, 1, 0, 0, 0, b"\x80\x00", 0), "Draft.tokens: token 0 is encoded longer"),
        (pack(2, 1, 1, 1, 0, 0, 0, b"\x01\xff\xff\xff\x7f", 0), "Draft.tokens: token 1 is 268435455, above"),
        (pack(2, 1, 1, 1, 0, 0, 0, b"\x81\x81\x81\x81\x01", 0), "takes more than 4 bytes"),
        (pack(2, 1, 1, 1, 5, -6, 0, (), 0), "Draft: start -1 is before the first generated token"),
        (pack(6, 1, 1, 1, 0, "a/b"), "Error: Expected `str` matching regex .* - at `worker`"),
        (pack(6, 1, 1, 1, 0, "w\n"), "Error: Expected `str` matching regex .* - at `worker`"),
        (pack(6, 1, 1, 1, 0, "w", "x" * 301), "Error: Expected `str` of length <= 300 - at `detail`"),
        (b"\x10" + b"\x90" * MAX_PAYLOAD_BYTES, f"{MAX_PAYLOAD_BYTES + 1} bytes, more than"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        CODEC.decode(payload)


@pytest.mark.parametrize(
    ("place", "number"),
    [
        *((0, number) for number in (float("nan"), float("inf"), -0.1, 100.5, "1")),
        *((2, number) for number in (float("nan"), float("inf"), 0.0, 1.5)),
        *((4, number) for number in (float("nan"), float("inf"), -0.1, 1.5)),
    ],
)
def test_a_sampling_out_of_bounds_is_refused(place: int, number: object) -> None:
    sampling: list[object] = [1.0, 0, 1.0, 0, 0.0]
    sampling[place] = number
    with pytest.raises(RemoteProtocolError, match=rf"identity\[2\]\[{place}\]"):
        CODEC.decode(pack(1, 1, 1, [1, bytes(16), sampling, [], False, 5], (1,), (), 0, 0, ()))


def test_equal_numbers_are_equal_bytes_on_both_sides() -> None:
    sloppy = Identity(1, bytes(16), Sampling(-0.0, 0, 1, 0), (), False, 5)
    assert repr(sloppy) == repr(Identity(1, bytes(16), Sampling(), (), False, 5))
    ints = [1, bytes(16), [0, 0, 1, 0], [], False, 5]
    received = CODEC.decode(pack(1, 1, 1, ints, (1,), (), 0, 0, ()))
    assert isinstance(received, Open)
    assert repr(received.identity) == repr(sloppy)


def _sampled(**values: Any) -> Open:
    sampling = msgspec.structs.replace(IDENTITY.sampling, **values)
    return Open(1, 1, msgspec.structs.replace(IDENTITY, sampling=sampling), (1,), (), 0, 0, ())


@pytest.mark.parametrize(
    "message",
    [
        Close(-1, 1, 1, CloseReason.DONE),
        Close(1, 1, 2**20 + 1, CloseReason.DONE),
        Draft(1, 1, 1, 0, 0, 0, (2**24,), 0),
        Draft(1, 1, 1, 0, 0, 0, (-1,), 0),
        Draft(1, 1, 1, 0, 0, 0, (1,) * 65, 0),
        Open(1, 1, IDENTITY, (), (), 0, 0, ()),
        _sampled(seed=2**64),
        _sampled(temperature=float("nan")),
        Verdict(1, 1, 0, 0, (), 0, Fin.NONE, 0, 0, "no slash/please"),
        Error(1, 1, ErrorCode.BUSY, 10_000_001, "w"),
        Error(1, 1, ErrorCode.BUSY, 1, "w", "\ud800"),
    ],
)
def test_our_own_nonsense_is_our_own_bug(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match=type(message).__name__):
        CODEC.encode(message)


def test_the_longest_prompt_passes_and_a_longer_one_is_the_users_to_shorten() -> None:
    longest = Open(1, 1, IDENTITY, (5,) * (MAX_PROMPT_TOKENS - 64), (), 0, 0, (5,) * 64)
    assert CODEC.decode(CODEC.encode(longest)) == longest
    with pytest.raises(UsageError, match="131136 tokens, more than 131072"):
        CODEC.encode(msgspec.structs.replace(longest, prompt=(5,) * MAX_PROMPT_TOKENS))


def test_a_prompt_that_no_payload_can_hold_is_the_users_to_shorten() -> None:
    incompressible = tuple((index * 2_654_435_761) % 2**24 for index in range(MAX_PROMPT_TOKENS))
    with pytest.raises(UsageError, match=f"more than {MAX_PAYLOAD_BYTES}"):
        CODEC.encode(Open(1, 1, IDENTITY, incompressible, (), 0, 0, ()))


def test_sizes_on_real_tokens() -> None:
    """docs/protocol.md: a draft of eight in 38 bytes, a verdict of nine in 41, both on average."""
    windows = [row["answer"][at : at + 9] for row in ROWS for at in range(0, len(row["answer"]) - 9, 9)]
    drafts = [Draft(2**31, 1, 30, 120, 0, 2**31, tuple(window[:8]), 0) for window in windows]
    verdicts = [Verdict(2**31, 1, 30, 120, tuple(window), 2**31, Fin.NONE, 2, 60) for window in windows]
    assert len(windows) > 90
    assert fmean(len(CODEC.encode(draft)) for draft in drafts) <= 38
    assert fmean(len(CODEC.encode(verdict)) for verdict in verdicts) <= 41


def test_the_dictionary_pays_on_prompts_it_has_not_seen() -> None:
    opens = [Open(2**31, 1, IDENTITY, tuple(row["prompt"]), (), 0, 0, ()) for row in ROWS]
    sent = [CODEC.encode(message) for message in opens]
    assert all(payload[0] & 15 == CURRENT for payload in sent)
    assert sum(map(len, sent)) < 0.7 * sum(len(message_to_body(message)) + 1 for message in opens)
    assert [CODEC.decode(payload) for payload in sent] == opens


def test_short_messages_are_never_compressed() -> None:
    repeated = Draft(1, 1, 1, 0, 0, 0, (5,) * (MIN_BYTES - 20), 0)
    assert len(message_to_body(repeated)) < MIN_BYTES
    assert CODEC.encode(repeated)[0] & 15 == 0
    longer = msgspec.structs.replace(repeated, tokens=(5,) * 64)
    assert CODEC.encode(longer)[0] & 15 == CURRENT
    assert len(CODEC.encode(longer)) < len(message_to_body(longer))


def test_what_compression_would_lengthen_travels_as_it_is() -> None:
    dense = Draft(1, 1, 1, 0, 0, 0, tuple(random.Random(1).sample(range(128, 2**14), 28)), 0)
    assert len(message_to_body(dense)) > MIN_BYTES
    assert CODEC.encode(dense) == b"\x10" + message_to_body(dense)


def test_many_threads_encode_and_decode_at_once() -> None:
    opens = [Open(n, 1, IDENTITY, tuple(row["prompt"]), (), 0, 0, ()) for n, row in enumerate(ROWS)]
    wrong: list[Message] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait(10)
        wrong.extend(
            message for _ in range(30) for message in opens if CODEC.decode(CODEC.encode(message)) != message
        )

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, bytes]:
    """Lines of a name and hexadecimal bytes."""
    lines = (GOLDEN / name).read_text(encoding="ascii").splitlines()
    return {key: bytes.fromhex(digits) for key, digits in (line.split() for line in lines)}


BODIES = golden("v1-bodies.hex")
PAYLOADS = golden("v1-payloads.hex")


def test_every_sample_is_golden() -> None:
    assert set(BODIES) == set(PAYLOADS) == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_bodies_do_not_change(name: str) -> None:
    assert message_to_body(SAMPLES[name]) == BODIES[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_payloads_stay_readable(name: str) -> None:
    """Compressed ones too. How well zstd compresses is its own business, so only short ones are compared."""
    assert CODEC.decode(PAYLOADS[name]) == SAMPLES[name]
    if len(BODIES[name]) < MIN_BYTES:
        assert CODEC.encode(SAMPLES[name]) == PAYLOADS[name]


def test_both_ways_of_compression_are_among_them() -> None:
    assert {payload[0] for payload in PAYLOADS.values()} == {0x10, 0x11, 0x12}


# Another implementation of msgpack, the package that other clients will use, reads and writes the same bytes.


@given(messages)
def test_any_body_is_what_msgpack_writes(message: Message) -> None:
    body = message_to_body(message)
    assert msgpack.packb(msgpack.unpackb(body, use_list=False)) == body


WORKER = WorkerStatus(
    state="online",
    epoch=1_700_000_000_123,
    at=1_700_000_000.5,
    worker="w1",
    version="v2",
    exactness="exact up to ties",
    flip_rate=0.001,
    load=3,
    capacity=16,
    lease=30,
)
EDGE = EdgeStatus(state="gone", epoch=1, at=2.0, edge="e1", sessions=4)


def test_round_trip_and_readable_json() -> None:
    assert CODEC.decode_status(CODEC.encode_status(WORKER), WorkerStatus) == WORKER
    assert CODEC.decode_status(CODEC.encode_status(EDGE), EdgeStatus) == EDGE
    assert json.loads(CODEC.encode_status(WORKER))["flip_rate"] == 0.001


def test_a_targets_text_is_read_compressed_or_not_and_from_a_newer_worker() -> None:
    end, shown = AddedToken(9, "<s>"), AddedToken(10, "<é>", special=False, rstrip=True)
    template = {"default": "{{ x }}"}
    text = TargetText(
        ordinary=9,
        added=(end, shown),
        special={"eos_token": "<s>"},
        template=template,
        before=(9,),
        context=2048,
    )
    newer = (
        '{"ordinary":9,"added":[[9,"<s>"],[10,"<é>",false,false,false,true,false,1]],"special":{"eos_token":"<s>"},'
        '"template":{"default":"{{ x }}"},"before":[9],"context":2048,"newer":1}'
    )
    golden = (
        "1220c34504004247191cb0b901cc0943ee2699651912e1da20591b4b1a5dd3a205f15f34392eb5208261ed4bfe30320693d1f9522b2001"
        "94fe8bda79f3ef073dfecb752d7427be32a32f5dfbba611c9acb09550502e364be76ec917c5e641e8cad6dde5a2f1b6b27d9b069322e0d"
        "0dfc8f015914f1f86027e297861eb4d2fb9733247ba1e55ebe63bbc8e766b809"
    )
    for payload in (b"\x10" + newer.encode(), bytes.fromhex(golden), CODEC.encode_target_text(text)):
        assert CODEC.decode_target_text(payload) == text


def test_fields_of_a_newer_peer_are_skipped_and_missing_ones_have_defaults() -> None:
    newer = b'{"state":"online","epoch":1,"at":1,"worker":"w","mood":{"a":[1]}}'
    assert CODEC.decode_status(newer, WorkerStatus) == WorkerStatus(
        state="online", epoch=1, at=1.0, worker="w"
    )


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "truncated"),
        (b"not json", "invalid"),
        (b'{"state":"online"', "truncated"),
        (b"[]", "Expected `object`"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"state":"online","epoch":1,"at":1}', "missing required field `worker`"),
        (b'{"state":"odd","epoch":1,"at":1,"worker":"w"}', r"Invalid enum value 'odd' - at `\$.state`"),
        (b'{"state":"online","epoch":-1,"at":1,"worker":"w"}', r">= 0 - at `\$.epoch`"),
        (b'{"state":"online","epoch":1,"at":NaN,"worker":"w"}', "invalid"),
        (b'{"state":"online","epoch":1,"at":1e999,"worker":"w"}', "out of range"),
        (b'{"state":"online","epoch":1,"at":1,"worker":"a/b"}', r"`\$.worker`"),
        (b'{"state":"online","epoch":1,"at":1,"worker":"w","device":"' + b"x" * 257 + b'"}', "length <= 256"),
        (
            b'{"state":"online","epoch":1,"at":1,"worker":"w","tokenizer":{"tokens":1,"vocabulary":"%s","rows":%d}}'
            % (32 * b"0", 2**24 + 1),
            r"<= 16777216 - at `\$.tokenizer.rows`",
        ),
        (b'{"state":"online","epoch":1,"at":1,"worker":"w","x":' + b"[" * 10_000 + b"]" * 1000, "recursion"),
        (b" " * (MAX_STATUS_BYTES + 1), "bytes, more than"),
    ],
)
def test_what_is_wrong_with_a_status_is_named(payload: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        CODEC.decode_status(payload, WorkerStatus)


@pytest.mark.parametrize("changes", [{"worker": ""}, {"at": float("nan")}, {"load": -1}, {"flip_rate": 2.0}])
def test_a_status_of_nonsense_is_our_own_bug(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"state": "online", "epoch": 1, "at": 1.0, "worker": "w"}
    with pytest.raises(LocalProtocolError, match="WorkerStatus cannot be encoded"):
        CODEC.encode_status(WorkerStatus(**{**fields, **changes}))


def test_every_dictionary_ships_and_is_small() -> None:
    assert DICTIONARIES
    for code in DICTIONARIES:
        data = dictionary(code)
        assert data is not None
        assert 1000 < len(data) <= 64 * 1024
    assert dictionary(ZSTD) is None
    assert CURRENT in DICTIONARIES
