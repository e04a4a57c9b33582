"""Count IP bytes on the loopback interface, by a raw capture. Needs root (CAP_NET_RAW)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_ETH_P_IP = 0x0800
_PACKET_HOST = 0
_TCP = 6


@dataclass(slots=True)
class Traffic:
    """Between one client and the broker: IP bytes and packets, TCP's bare acknowledgements included."""

    up_bytes: int = 0
    down_bytes: int = 0
    up_packets: int = 0
    down_packets: int = 0


@contextmanager
def captured(client_port: int, broker_port: int) -> Iterator[Traffic]:
    """Count until the body ends.

    Raises:
        PermissionError: not allowed to capture.
    """
    traffic = Traffic()
    stop = threading.Event()
    # SOCK_DGRAM strips the link layer, so a packet's length is its IP length.
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP)) as raw:
        raw.bind(("lo", _ETH_P_IP))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        raw.settimeout(0.2)
        counter = threading.Thread(target=_count, args=(raw, (client_port, broker_port), traffic, stop))
        counter.start()
        try:
            yield traffic
        finally:
            stop.set()
            counter.join()


def _count(raw: socket.socket, ports: tuple[int, int], traffic: Traffic, stop: threading.Event) -> None:
    """Add up packets until told to stop and nothing has come for the socket's time-out."""
    client, broker = ports
    while True:
        try:
            packet, address = raw.recvfrom(65_536)
        except TimeoutError:
            if stop.is_set():
                return
            continue
        # The loopback shows each packet as it leaves and as it arrives; count arrivals.
        if address[2] != _PACKET_HOST or packet[9] != _TCP:
            continue
        header = (packet[0] & 0x0F) * 4
        source, target = (int.from_bytes(packet[header + i : header + i + 2], "big") for i in (0, 2))
        if (source, target) == (client, broker):
            traffic.up_bytes += len(packet)
            traffic.up_packets += 1
        elif (source, target) == (broker, client):
            traffic.down_bytes += len(packet)
            traffic.down_packets += 1
