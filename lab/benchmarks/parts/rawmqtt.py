"""A blocking MQTT 5 client of a hundred lines, for the floor that no library can beat. Not for use elsewhere."""

from __future__ import annotations

import socket
from typing import Self

_CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP, _SUBACK = 2, 3, 4, 5, 6, 7, 9


class RawClient:
    """One connection with a clean session. Packets under 128 bytes only, and nothing that is not needed here."""

    def __init__(self, port: int, client_id: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._received = 0
        self._unsettled = 0
        self._next_id = 0
        name = client_id.encode()
        body = b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + len(name).to_bytes(2, "big") + name
        self._send(0x10, body)
        self._take_until(_CONNACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._socket.close()

    def subscribe(self, topic: str) -> None:
        """Subscribe at QoS 2 and wait for SUBACK."""
        name = topic.encode()
        self._send(0x82, self._id() + b"\x00" + len(name).to_bytes(2, "big") + name + b"\x02")
        self._take_until(_SUBACK)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Send, and do not wait."""
        name = topic.encode()
        number = self._id() if qos else b""
        self._unsettled += qos > 0
        self._send(0x30 | qos << 1, len(name).to_bytes(2, "big") + name + number + b"\x00" + payload)

    def receive(self, count: int) -> None:
        """Wait until `count` messages have come since the last call."""
        while self._received < count:
            self._take()
        self._received -= count

    def settle(self) -> None:
        """Wait until every publish is acknowledged."""
        while self._unsettled:
            self._take()

    def _take_until(self, wanted: int) -> None:
        while self._take() != wanted:
            pass

    def _take(self) -> int:
        """Handle one packet, answer it if it wants an answer, and return its type."""
        while len(self._buffer) < 2 or len(self._buffer) < 2 + self._buffer[1]:
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise ConnectionError("the broker hung up")
            self._buffer += chunk
        if self._buffer[1] >= 0x80:
            raise ValueError("a packet of 128 bytes or more")
        end = 2 + self._buffer[1]
        first, body, self._buffer = self._buffer[0], self._buffer[2:end], self._buffer[end:]
        kind = first >> 4
        if kind == _PUBLISH:
            self._take_message(first, body)
        elif kind in (_PUBACK, _PUBCOMP):
            self._unsettled -= 1
        elif kind == _PUBREC:
            self._send(_PUBREL << 4 | 2, body[:2])
        elif kind == _PUBREL:
            self._send(_PUBCOMP << 4, body[:2])
        return kind

    def _take_message(self, first: int, body: bytes) -> None:
        self._received += 1
        qos = first >> 1 & 3
        if qos:
            at = 2 + int.from_bytes(body[:2], "big")
            self._send((_PUBACK if qos == 1 else _PUBREC) << 4, body[at : at + 2])

    def _id(self) -> bytes:
        self._next_id = self._next_id % 65_535 + 1
        return self._next_id.to_bytes(2, "big")

    def _send(self, first: int, body: bytes) -> None:
        self._socket.sendall(bytes((first, len(body))) + body)
