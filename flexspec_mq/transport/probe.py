"""Tell a broker that is too old from one that is going down: both may hang up on an MQTT 5 CONNECT."""

from __future__ import annotations

import asyncio

from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.sockets import open_socket

# MQTT 3.1.1 CONNECT: clean session, keepalive 10 s, empty client id (section 3.1 of the standard).
_CONNECT_311 = bytes((0x10, 12, 0, 4)) + b"MQTT" + bytes((4, 2, 0, 10, 0, 0))
_CONNACK_311 = bytes((0x20, 2))


async def answers_only_older(settings: LinkSettings) -> bool:
    """Whether the peer answers a CONNECT of MQTT 3.1.1, whatever the answer is."""
    loop = asyncio.get_running_loop()
    try:
        sock = await open_socket(settings)
    except LinkError:
        return False
    try:
        async with asyncio.timeout(settings.connect_timeout):
            await loop.sock_sendall(sock, _CONNECT_311)
            answer = await loop.sock_recv(sock, 4)
    except (OSError, TimeoutError):
        return False
    finally:
        sock.close()
    return answer.startswith(_CONNACK_311)
