"""Bytes of version 1 that must never change, and must be readable for ever."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest
from hypothesis import given

from flexspec_mq.codec import Codec
from flexspec_mq.codec.compression import MIN_BYTES
from flexspec_mq.codec.wire import message_to_body
from schemas.messages import Message
from tests.codec.samples import SAMPLES
from tests.codec.strategies import messages

CODEC = Codec()

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
