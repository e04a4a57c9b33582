"""Another implementation of msgpack, the package that other clients will use, reads and writes the same bytes."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given

from flexspec_mq.codec.wire import message_to_body
from schemas.messages import Message
from tests.codec.strategies import messages
from tests.codec.test_codec_golden import BODIES


@pytest.mark.parametrize("name", BODIES)
def test_golden_bodies_are_what_msgpack_writes(name: str) -> None:
    fields = msgpack.unpackb(BODIES[name], use_list=False)
    assert isinstance(fields, tuple)
    assert msgpack.packb(fields) == BODIES[name]


@given(messages)
def test_any_body_is_what_msgpack_writes(message: Message) -> None:
    body = message_to_body(message)
    assert msgpack.packb(msgpack.unpackb(body, use_list=False)) == body
