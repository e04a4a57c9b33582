"""Probes that `lab.benchmarks.links` runs on the two sides of an emulated link: a UDP sender and a UDP receiver.

Both sides share the machine's clock, so the delay of each way is measured on its own: from just before the send to
the kernel's time stamp of the arrival (Linux), so that it does not contain how long the receiver took to wake up.
Only the standard library, so that a probe starts at once.
"""

from __future__ import annotations

import math
import socket
import struct
import sys
import time
from typing import Any

IP_UDP = 28
"""Bytes of the headers that the link counts and a socket does not."""
_HEAD = struct.Struct("!Qq")
_STAMP = struct.Struct("ll")
_SO_TIMESTAMPNS = 35
_BUFFER = 8 * 1024 * 1024


def send(address: str, port: int, size: int, spacing: float, count: int) -> dict[str, Any]:
    """Send `count` packets of `size` payload bytes, one every `spacing` seconds, late ones at once."""
    padding = bytes(size - _HEAD.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        udp.connect((address, port))
        start = time.monotonic()
        for number in range(count):
            wait = start + number * spacing - time.monotonic()
            if wait > 0.0002:
                time.sleep(wait)
            udp.send(_HEAD.pack(number, time.time_ns()) + padding)
        return {"sent": count, "seconds": time.monotonic() - start}


def receive(address: str, port: int, first: float, idle: float, limit: float) -> dict[str, Any]:
    """Receive until `idle` seconds pass without a packet; the first may take `first`, all together `limit` seconds.

    Returns:
        numbers, one-way delays in ms and arrival times in s of the packets, and their payload size.
    """
    numbers: list[int] = []
    delays: list[float] = []
    times: list[float] = []
    size = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        udp.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        udp.bind((address, port))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        udp.settimeout(first)
        ends = time.monotonic() + limit
        try:
            while time.monotonic() < ends:
                packet, stamps, _, _ = udp.recvmsg(2048, socket.CMSG_SPACE(_STAMP.size))
                at, nanoseconds = _STAMP.unpack(stamps[0][2])
                now = at * 1_000_000_000 + nanoseconds
                if not numbers:
                    udp.settimeout(idle)
                number, sent = _HEAD.unpack_from(packet)
                numbers.append(number)
                delays.append((now - sent) / 1e6)
                times.append(now / 1e9)
                size = len(packet)
        except TimeoutError:
            pass
    return {"numbers": numbers, "delays_ms": delays, "times": times, "size": size}


def rate_of(got: dict[str, Any]) -> float:
    """IP bits per second at the receiver, once the queue is full."""
    times: list[float] = got["times"]
    begin = next((i for i, at in enumerate(times) if at > times[0] + 0.3), 0)
    if len(times) - begin < 10:
        return math.nan
    bits: int = (len(times) - 1 - begin) * (got["size"] + IP_UDP) * 8
    return bits / (times[-1] - times[begin])
