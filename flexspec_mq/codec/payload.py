"""One message, one MQTT payload."""

from __future__ import annotations

from flexspec_mq.codec.compression import compress, decompress
from flexspec_mq.codec.framing import compression_of, flag_byte
from flexspec_mq.codec.limits import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES
from flexspec_mq.codec.wire import body_to_message, message_to_body
from flexspec_mq.errors import RemoteProtocolError, UsageError
from schemas.messages import Message


def encode(message: Message) -> bytes:
    """Make the payload of a message.

    Raises:
        UsageError: it is larger than a payload may be, or holds more than `MAX_PROMPT_TOKENS`; only a very
            long prompt can do that.
        LocalProtocolError: a field is out of bounds.
    """
    body = message_to_body(message)
    code, data = compress(body)
    if len(body) > MAX_BODY_BYTES or len(data) >= MAX_PAYLOAD_BYTES:
        raise UsageError(
            f"{type(message).__name__} takes {len(data) + 1} bytes, more than {MAX_PAYLOAD_BYTES}",
            hint="shorten the prompt",
        )
    return flag_byte(code) + data


def decode(payload: bytes) -> Message:
    """Read a payload.

    Raises:
        RemoteProtocolError: saying what is wrong; nothing else, whatever the bytes are.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RemoteProtocolError(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
    code = compression_of(payload)
    return body_to_message(decompress(code, memoryview(payload)[1:]))
