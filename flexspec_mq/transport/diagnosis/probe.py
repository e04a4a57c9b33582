"""CONNECT packets of our own: to log in, and to tell a broker that is too old from one that is going down.

Both may hang up on an MQTT 5 CONNECT.
"""

from __future__ import annotations

import asyncio
import struct

from paho.mqtt.properties import VariableByteIntegers

from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.sockets import open_socket, until_done

# CONNECT with a clean session, keepalive 10 s and an empty client id, by section 3.1 of either standard.
CONNECT_311 = bytes((0x10, 12, 0, 4)) + b"MQTT" + bytes((4, 2, 0, 10, 0, 0))
CONNECT_5 = bytes((0x10, 13, 0, 4)) + b"MQTT" + bytes((5, 2, 0, 10, 0, 0, 0))
DISCONNECT = bytes((0xE0, 0))
_USERNAME, _PASSWORD = 0x80, 0x40
_CONNACK = bytes((0x20,))
_ROUNDS = 2


def login(settings: LinkSettings) -> bytes:
    """`CONNECT_5` with the login of a link, and without its client id: it takes no connection's place."""
    flags, given = 2, b""
    for flag, text in ((_USERNAME, settings.username), (_PASSWORD, settings.password)):
        if text is not None:
            flags |= flag
            given += struct.pack(">H", len(text.encode())) + text.encode()
    rest = bytes((0, 4)) + b"MQTT" + bytes((5, flags, 0, 10, 0, 0, 0)) + given
    return bytes((0x10,)) + VariableByteIntegers.encode(len(rest)) + rest  # type: ignore[no-untyped-call, no-any-return]


async def answers_only_older(settings: LinkSettings) -> bool:
    """Whether the peer answers CONNECT of MQTT 3.1.1 and hangs up on that of MQTT 5, twice in turns.

    A broker that speaks both answers both, unless the connection breaks; hence the second turn.
    """
    for _ in range(_ROUNDS):
        if not (await _answer(settings, CONNECT_311)).startswith(_CONNACK):
            return False
        if await _answer(settings, CONNECT_5):
            return False
    return True


async def _answer(settings: LinkSettings, connect: bytes) -> bytes:
    """The first bytes that the peer sends back; empty if it hangs up, keeps silent or cannot be reached."""
    try:
        sock = await open_socket(settings)
    except LinkError:
        return b""
    try:
        async with asyncio.timeout(settings.connect_timeout):
            sock.sendall(connect)  # a few bytes on a fresh connection
            return await until_done(sock, lambda: sock.recv(4))
    except (OSError, TimeoutError):
        return b""
    finally:
        sock.close()
