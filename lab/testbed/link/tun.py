"""A TUN device: a network interface whose packets we read and write."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from flexspec_mq.errors import FlexSpecError
from lab.testbed.link import namespaces
from lab.testbed.link.profiles import MTU

DEVICE = "link0"
"""Name of the interface, on both sides."""
_QUEUE = "5000"
# Packets between the kernel and our loop, more than a burst at the highest rates; the queue that counts is ours.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def open_tun(namespace: str, address: str) -> int:
    """Make a TUN device in a namespace, with an address, up; also bring up its loopback.

    The device lives as long as the file is open. The calling thread is moved into the namespace and back.

    Args:
        namespace: name as `ip netns` knows it.
        address: IP address with prefix length, as in ``10.77.0.1/30``.

    Returns:
        A non-blocking file: each read is one IP packet that the namespace sends, each write one that it receives.

    Raises:
        FlexSpecError: the kernel or `ip` refused.
    """
    with namespaces.inside(namespace):
        return _make(address)


def _make(address: str) -> int:
    # IPv6 would send router solicitations over a link on which every packet counts.
    for scope in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if path.exists():
            path.write_text("1\n", "ascii")
    try:
        tun = os.open(namespaces.TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FlexSpecError(f"{namespaces.TUN_DEVICE} cannot be opened: {error.strerror}") from None
    try:
        request = struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(tun, _TUNSETIFF, request)
        namespaces.run_ip("link", "set", "lo", "up")
        namespaces.run_ip("addr", "add", address, "dev", DEVICE)
        namespaces.run_ip("link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", _QUEUE, "up")
    except OSError as error:
        os.close(tun)
        raise FlexSpecError(f"a TUN device cannot be made: {error.strerror}") from None
    except FlexSpecError:
        os.close(tun)
        raise
    return tun
