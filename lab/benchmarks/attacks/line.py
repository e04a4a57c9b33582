"""An MQTT 5 connection over TLS that writes as fast as bytes go: packets are sent many at a time."""

import socket
import time
from pathlib import Path
from typing import Self

from flexspec_mq.transport.base import TlsSettings
from flexspec_mq.transport.sockets import tls_context

_HOST = "127.0.0.1"
_CONNECT, _PUBLISH, _SUBSCRIBE, PING = 0x10, 0x30, 0x82, b"\xc0\x00"
_PATIENCE = 10.0
"""Seconds for the broker to let a client in."""
_QUIET = 20.0
"""Seconds after which it shows the broker that it lives."""


class MqttLine:
    """A connection of a user, for publishing and listening at QoS 0.

    Args:
        port: port of a broker on this machine.
        ca: certificate authority of the broker, whose certificate is for 127.0.0.1.
        user: name of the client, who logs in with it.
        password: password of the user.

    Attributes:
        heard: messages that came, as topic and payload, until somebody takes them.

    Raises:
        ConnectionError: the broker let nobody in.
    """

    def __init__(self, port: int, ca: Path, user: str, password: str) -> None:
        self.heard: list[tuple[str, bytes]] = []
        plain = socket.create_connection((_HOST, port), timeout=_PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = tls_context(TlsSettings(ca)).wrap_socket(plain, server_hostname=_HOST)
        self._buffer = bytearray()
        self._codes: list[int] = []
        self._pinged = time.monotonic()
        flags = 0xC2  # user, password, clean start
        body = b"\x00\x04MQTT\x05" + bytes((flags,)) + b"\x00\x3c\x00"
        self._socket.sendall(_packet(_CONNECT, body + 2 * _text(user) + _text(password)))
        ends = time.monotonic() + _PATIENCE
        while not self._codes:
            if time.monotonic() > ends:
                raise ConnectionError(f"the broker said nothing to {user} for {_PATIENCE:g} s")
            self.listen(0.002)
        if self._codes[0]:
            raise ConnectionError(f"the broker refused {user} with code {self._codes[0]:#x}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def subscribe(self, topic_filter: str) -> None:
        """Ask for messages; the answer is not waited for."""
        self._socket.sendall(subscribe(topic_filter))

    def send(self, packets: bytes) -> None:
        """Send packets that `publish` made; waits while the broker takes no more."""
        self._socket.settimeout(30.0)
        self._socket.sendall(packets)

    def listen(self, seconds: float) -> None:
        """Take what comes within so many seconds.

        Raises:
            ConnectionError: the broker hung up.
        """
        now = time.monotonic()
        if now - self._pinged > _QUIET:
            self._socket.sendall(PING)
            self._pinged = now
        self._socket.settimeout(max(0.001, seconds))
        try:
            while True:
                chunk = self._socket.recv(1 << 20)
                if not chunk:
                    raise ConnectionError("the broker hung up")
                self._buffer += chunk
                self._split()
                self._socket.settimeout(max(0.001, now + seconds - time.monotonic()))
        except TimeoutError:
            return

    def _split(self) -> None:
        at = 0
        while (found := body_of(self._buffer, at)) is not None and found[0] + found[1] <= len(self._buffer):
            begin, size = found
            self._take(self._buffer[at], bytes(self._buffer[begin : begin + size]))
            at = begin + size
        del self._buffer[:at]

    def _take(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 2:  # CONNACK
            self._codes.append(body[1])
        elif kind == _PUBLISH >> 4:
            end = 2 + int.from_bytes(body[:2], "big")
            found = body_of(body, end - 1)
            assert found is not None
            self.heard.append((body[2:end].decode(), body[found[0] + found[1] :]))
        elif kind == 14:  # DISCONNECT
            raise ConnectionError(f"the broker ended the connection with code {body[:1].hex()}")


def body_of(data: bytes | bytearray, at: int = 0) -> tuple[int, int] | None:
    """Where the body of the packet at `at` begins, and its length; None before that has come."""
    length = 0
    for place in range(at + 1, min(len(data), at + 5)):
        length |= (data[place] & 0x7F) << 7 * (place - at - 1)
        if data[place] < 0x80:
            return place + 1, length
    return None


def publish(
    topic: str, payload: bytes, *, retain: bool = False, number: int = 0, properties: bytes = b""
) -> bytes:
    """A packet at QoS 0, or with a number at QoS 1."""
    numbered = number.to_bytes(2, "big") if number else b""
    body = _text(topic) + numbered + _size(len(properties)) + properties + payload
    return _packet(_PUBLISH | bool(number) << 1 | retain, body)


def subscribe(topic_filter: str) -> bytes:
    """A packet that asks for messages at QoS 0."""
    return _packet(_SUBSCRIBE, b"\x00\x01\x00" + _text(topic_filter) + b"\x00")


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + _size(len(body)) + body


def _size(size: int) -> bytes:
    """A variable byte integer."""
    low, rest = size & 127, size >> 7
    return bytes((low | 128,)) + _size(rest) if rest else bytes((low,))


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()
