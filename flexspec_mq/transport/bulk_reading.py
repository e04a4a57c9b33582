"""Reading of a connection: many packets at a time, and messages without paho.

paho reads a packet by three system calls or more and makes a dozen objects of it: some 60 µs, which whoever may
publish could have us spend on each of 20 bytes, and 10 µs more for each property that he adds. Here all that has come
is read at once, up to 64 KiB, and of what is in it messages at QoS 0 and 1 are taken apart in 3 µs, whatever their
size and properties, which are passed on unread, if they are few; one that is not wanted (`LinkSettings.admit`) costs
half of that. All other packets, and what is no proper message, go to paho as they are.
"""

import ssl
import time
from collections.abc import Callable
from typing import Any

from flexspec_mq.transport.base import MOST_PROPERTIES, Inbound

BULK = 64 * 1024
"""Bytes that are read at a time; then the event loop goes on with something else."""
_PUBLISH, _PUBACK = 0x30, 0x40
_KIND_AND_HIGH_QOS = 0xF4
"""Bits of a packet's first byte: its kind, and the bit that only QoS 2 and 3 have."""
_QOS_1, _RETAIN = 0x02, 0x01
_NOWHERE = 2**62


class BulkReader:
    """The reader of one connection.

    Args:
        client: `paho.mqtt.client.Client` of the connection, whose way to receive is replaced by ours.
        wants: asked by topic and size of each message whether it is to be delivered.
        deliver: takes those that are.

    Attributes:
        unwanted: messages of the newest `read` that were not to be delivered.
    """

    def __init__(
        self, client: Any, wants: Callable[[str, int], bool], deliver: Callable[[Inbound], None]
    ) -> None:
        self._client = client
        self._wants = wants
        self._deliver = deliver
        self._data = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._missing = 0
        self.unwanted = 0
        self._end: Exception | None = None
        self._ended = False
        self._client._sock_recv = self._receive  # noqa: SLF001

    def read(self) -> None:
        """Read what the socket has, up to `BULK`, and carry it out; call it whenever there is something.

        Raises:
            OSError: as paho raises it, where a connection breaks.
        """
        self.unwanted = 0
        if not self._fill():
            return
        client = self._client
        while client._sock is not None:  # noqa: SLF001
            if client._in_packet["command"] == 0 and not self._take_messages():  # noqa: SLF001
                return
            if self._at >= len(self._data) and not self._ended and self._end is None:
                return
            if (code := client._packet_read()) > 0:  # noqa: SLF001
                client._loop_rc_handle(code)  # noqa: SLF001
                return

    def _fill(self) -> bool:
        """Read until nothing more is there, or `BULK` came; False as long as more is needed for the next message.

        Over TLS one call gives one record, and Mosquitto makes one of each message. Each call takes a whole record,
        so that none is left half decoded, of which the event loop would know nothing.
        """
        came = 0
        while came < BULK and not self._ended:
            try:
                chunk = self._client._sock.recv(BULK)  # noqa: SLF001
            except (BlockingIOError, ssl.SSLWantReadError):
                break
            except (OSError, AttributeError) as error:
                self._end = error
                break
            self._ended = not chunk
            self._chunks.append(chunk)
            came += len(chunk)
            self._client._last_bytes_received = time.monotonic()  # noqa: SLF001
        self._missing -= came
        if self._missing > 0 and not self._ended and self._end is None:
            return False  # a large message is put together once, not with each of its pieces
        self._data = b"".join((self._data[self._at :], *self._chunks))
        self._at = self._missing = 0
        self._chunks.clear()
        return True

    def _receive(self, size: int) -> bytes:
        """Receive what paho asks for, instead of the socket."""
        if self._at >= len(self._data):
            if self._end is not None:
                raise self._end
            if self._ended:
                return b""
            raise BlockingIOError
        chunk = self._data[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def _take_messages(self) -> bool:
        """Carry out messages as long as whole ones come next; False if the rest is the beginning of one."""
        data, at, end = self._data, self._at, len(self._data)
        acknowledged = bytearray()
        whole = True
        while at < end and data[at] & _KIND_AND_HIGH_QOS == _PUBLISH:
            parts = _split(data, at, end)
            if parts is None:
                break
            if isinstance(parts, int):
                self._missing = parts
                whole = self._ended or self._end is not None
                break
            topic, number, start, properties, body, after = parts
            if number:
                acknowledged += b"\x40\x02" + number
            first, at = data[at], after
            if self._wants(topic, after - start):
                qos, retain = int(bool(number)), bool(first & _RETAIN)
                raw = data[properties:body] if body - properties <= MOST_PROPERTIES else b""
                self._deliver(Inbound(topic, data[body:after], qos, retain, raw))
            else:
                self.unwanted += 1
        self._at = at
        if acknowledged:
            # As one packet of paho's, which only writes it.
            self._client._packet_queue(_PUBACK, bytes(acknowledged), 0, 1)  # noqa: SLF001
        return whole


def _split(data: bytes, at: int, end: int) -> tuple[str, bytes, int, int, int, int] | int | None:
    """Take the message at `at` apart.

    Returns:
        Topic, packet number (none at QoS 0), where the length of its properties is, where they begin, where its payload
        does, and where that ends; how many bytes of it are missing, as far as is known; None if it is no proper one, so
        that paho shall see it.
    """
    size, place = _number(data, at + 1, end)
    if place > end:
        return 1 if place < _NOWHERE else None
    after = place + size
    if after > end:
        return after - end
    topic = place + 2
    number = topic + int.from_bytes(data[place:topic], "big")
    start = number + (2 if data[at] & _QOS_1 else 0)
    length, properties = _number(data, start, after)
    body = properties + length
    try:
        if size >= 3 and body <= after:
            return data[topic:number].decode(), data[number:start], start, properties, body, after
    except UnicodeDecodeError:
        pass
    return None


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The variable byte integer at `at`, and where it ends: behind `end` if that has not come.

    Four bytes are the most; a longer one ends nowhere.
    """
    number = shift = 0
    while at < end and shift < 28:
        byte = data[at]
        at += 1
        if byte < 128:
            return number | byte << shift, at
        number |= (byte & 127) << shift
        shift += 7
    return number, _NOWHERE if shift >= 28 else end + 1
