"""A UDP sender and a UDP receiver for the two sides of an emulated link.

    python udp_probe.py send ADDRESS SIZE COUNT SPACING
    python udp_probe.py receive ADDRESS

Both sides share the machine's clock. The receiver prints numbers, one-way delays in ms and arrival times in s, taken
from the kernel's time stamps, so that waking up is in none of them.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time

_HEAD = struct.Struct("!Qq")
_STAMP = struct.Struct("ll")
_SO_TIMESTAMPNS = 35
_BUFFER = 8 * 1024 * 1024
_PORT = 5001


def send(address: str, size: int, count: int, spacing: float) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        udp.connect((address, _PORT))
        start = time.monotonic()
        for number in range(count):
            wait = start + number * spacing - time.monotonic()
            if wait > 0.0002:
                time.sleep(wait)
            udp.send(_HEAD.pack(number, time.time_ns()) + bytes(size - _HEAD.size))


def receive(address: str) -> dict[str, list[float]]:
    numbers, delays, times = [], [], []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        udp.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        udp.bind((address, _PORT))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        udp.settimeout(4.0)
        try:
            while True:
                packet, stamps, _, _ = udp.recvmsg(2048, socket.CMSG_SPACE(_STAMP.size))
                seconds, nanoseconds = _STAMP.unpack(stamps[0][2])
                now = seconds * 1_000_000_000 + nanoseconds
                udp.settimeout(2.0)
                number, sent = _HEAD.unpack_from(packet)
                numbers.append(float(number))
                delays.append((now - sent) / 1e6)
                times.append(now / 1e9)
        except TimeoutError:
            return {"numbers": numbers, "delays_ms": delays, "times": times}


if __name__ == "__main__":
    what, address, *rest = sys.argv[1:]
    if what == "send":
        send(address, int(rest[0]), int(rest[1]), float(rest[2]))
    else:
        sys.stdout.write(json.dumps(receive(address)) + "\n")
