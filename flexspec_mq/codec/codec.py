"""Messages as MQTT payloads, statuses as JSON documents, because people and dashboards read those.

A flag byte comes first in every payload. Bits 7 to 4 hold the version of the wire protocol, 1 to 15, so that any
version can say of any other that it is another. Bits 3 to 0 say how the body is compressed: 0 not at all, 1 zstd,
2 to 14 zstd with a dictionary; 15 marks a payload under keys (`flexspec_mq.keys`), which is for whoever holds them. A
new dictionary takes a new number; frames made with an old one stay readable as long as the old file ships.
"""

from typing import TypeVar

import msgspec

from flexspec_mq.codec.compression import PLAIN, compress, decompress
from flexspec_mq.codec.limits import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, MAX_STATUS_BYTES
from flexspec_mq.codec.wire import body_to_message, message_to_body
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError, UsageError
from schemas.messages import MAX_PROMPT_TOKENS, PROTOCOL_VERSION, Message
from schemas.status import EdgeStatus, TargetText, WorkerStatus

StatusT = TypeVar("StatusT", WorkerStatus, EdgeStatus)


class Codec:
    """Encoder and decoder of messages. Whoever talks holds one; it may be used on any thread.

    Args:
        most_tokens: bound of a message that is read; a longer one is refused before its tokens are read.
        compresses: whether messages that are written are compressed; not under a seal, where sizes would tell how much
            of what one author wrote is in what another one did (CRIME).
    """

    def __init__(self, most_tokens: int = MAX_PROMPT_TOKENS, *, compresses: bool = True) -> None:
        self._most_tokens = min(most_tokens, MAX_PROMPT_TOKENS)
        self._compresses = compresses

    def encode(self, message: Message) -> bytes:
        """Make the payload of a message.

        Raises:
            UsageError: it is larger than a payload may be, or holds more than `MAX_PROMPT_TOKENS`; only a very
                long prompt can do that.
            LocalProtocolError: a field is out of bounds.
        """
        body = message_to_body(message)
        code, data = compress(body) if self._compresses else (PLAIN, body)
        if len(body) > MAX_BODY_BYTES or len(data) >= MAX_PAYLOAD_BYTES:
            raise UsageError(
                f"{type(message).__name__} takes {len(data) + 1} bytes, more than {MAX_PAYLOAD_BYTES}",
                hint="shorten the prompt",
            )
        return flag_byte(code) + data

    def decode(self, payload: bytes) -> Message:
        """Read a payload.

        Raises:
            RemoteProtocolError: saying what is wrong, as `TooManyTokens` where that is it; nothing else, whatever the
                bytes are.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
        code = compression_of(payload)
        return body_to_message(decompress(code, memoryview(payload)[1:]), self._most_tokens)

    def encode_status(self, status: StatusT) -> bytes:
        """Write a status document.

        Raises:
            LocalProtocolError: a field is out of bounds, so that no reader would accept it.
        """
        document = msgspec.json.encode(status)
        try:
            self.decode_status(document, type(status))
        except RemoteProtocolError as error:
            raise LocalProtocolError(f"{type(status).__name__} cannot be encoded: {error}") from error
        return document

    def decode_status(self, payload: bytes, kind: type[StatusT]) -> StatusT:
        """Read a status document of a known kind; fields that it does not know are skipped.

        Raises:
            RemoteProtocolError: too large, not JSON, a field missing, of the wrong type or out of bounds. An
                empty payload is refused too; on a retained topic it says that nothing is retained any more, which
                is the caller's to know.
        """
        if len(payload) > MAX_STATUS_BYTES:
            raise RemoteProtocolError(f"the status has {len(payload)} bytes, more than {MAX_STATUS_BYTES}")
        try:
            return msgspec.json.decode(payload, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"{kind.__name__}: {error}") from error

    def encode_target_text(self, text: TargetText) -> bytes:
        """Make the payload of a target's text: JSON, compressed as messages are."""
        code, data = compress(msgspec.json.encode(text))
        return flag_byte(code) + data

    def decode_target_text(self, payload: bytes) -> TargetText:
        """Read such a payload.

        Raises:
            RemoteProtocolError: as for a message.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"the payload has {len(payload)} bytes, more than {MAX_PAYLOAD_BYTES}")
        body = decompress(compression_of(payload), memoryview(payload)[1:])
        try:
            return msgspec.json.decode(body, type=TargetText)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise RemoteProtocolError(f"TargetText: {error}") from error


def flag_byte(compression: int) -> bytes:
    """The flag byte of this protocol version for a compression code, 0 to 15."""
    return bytes((PROTOCOL_VERSION << 4 | compression,))


def compression_of(payload: bytes) -> int:
    """The compression code of a payload of this protocol version.

    Raises:
        RemoteProtocolError: the payload is empty, or speaks another protocol version.
    """
    if not payload:
        raise RemoteProtocolError("the payload is empty")
    version, compression = divmod(payload[0], 16)
    if version != PROTOCOL_VERSION:
        raise RemoteProtocolError(
            f"the payload speaks protocol version {version}, this is version {PROTOCOL_VERSION}",
            hint="run the same release of FlexSpec MQ on both sides",
        )
    return compression
