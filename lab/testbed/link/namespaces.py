"""Network namespaces by ``ip netns``: making, entering, removing; their TUN devices."""

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexspec_mq.errors import FlexSpecError, UsageError
from lab.testbed.link.profiles import MTU

NETNS_FOLDER = Path("/run/netns")
TUN_DEVICE = Path("/dev/net/tun")
_CLONE_NEWNET = 0x40000000
_COMMAND_TIMEOUT = 20.0
_PATIENCE = 2.0
_TUN_NAME = "link0"
"""Name of the interface whose packets we read and write, on both sides."""
_QUEUE = "5000"
# Packets between the kernel and our loop, more than a burst at the highest rates; the queue that counts is ours.
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def check_requirements() -> None:
    """Is all there that a link of namespaces needs?

    Raises:
        UsageError: no Linux, no root, no ``ip``, or no TUN device; says which.
    """
    proxy = "`flexspec link proxy` needs neither root nor namespaces"
    if not Path("/proc/self/ns/net").exists():
        raise UsageError("links of network namespaces need Linux", hint=proxy)
    if os.geteuid() != 0:
        raise UsageError("links of network namespaces need root", hint=f"run it with sudo; {proxy}")
    if shutil.which("ip") is None:
        raise UsageError("there is no `ip` command", hint=f"apt-get install iproute2; {proxy}")
    if not TUN_DEVICE.exists():
        raise UsageError(
            f"there is no {TUN_DEVICE}", hint=f"modprobe tun, or give it to the container; {proxy}"
        )


def new_names() -> tuple[str, str]:
    """Names of the namespaces of sides a and b."""
    stem = f"fmq-{os.getpid()}-{secrets.token_hex(3)}"
    return f"{stem}-a", f"{stem}-b"


def add(name: str) -> None:
    """Make a namespace.

    Raises:
        FlexSpecError: `ip` refused.
    """
    run_ip("netns", "add", name)


def remove(name: str) -> None:
    """End every process inside, then remove the namespace. Nothing happens when there is none."""
    if not (NETNS_FOLDER / name).exists():
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = processes(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        ends = time.monotonic() + _PATIENCE
        while pids and processes(name) and time.monotonic() < ends:
            time.sleep(0.02)
    with contextlib.suppress(FlexSpecError):
        run_ip("netns", "del", name)


def processes(name: str) -> list[int]:
    """Processes of a namespace, without our own."""
    try:
        lines = run_ip("netns", "pids", name).split()
    except FlexSpecError:
        return []
    return [int(pid) for pid in lines if int(pid) != os.getpid()]


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Have the calling thread, and what it starts meanwhile, in a namespace.

    Raises:
        FlexSpecError: the kernel refused.
    """
    here, there = Path("/proc/thread-self/ns/net"), NETNS_FOLDER / name
    with here.open("rb", buffering=0) as home, there.open("rb", buffering=0) as away:
        _setns(away.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def run_ip(*arguments: str) -> str:
    """Run ``ip`` and return what it prints.

    Raises:
        FlexSpecError: it failed, or took too long.
    """
    try:
        done = subprocess.run(
            ["ip", *arguments], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FlexSpecError(f"`ip {' '.join(arguments)}` failed: {error}") from None
    if done.returncode:
        raise FlexSpecError(
            f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}",
            hint="is this a container without CAP_NET_ADMIN and CAP_SYS_ADMIN?",
        )
    return done.stdout


def _setns(handle: int) -> None:
    # os.setns came with Python 3.12
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        raise FlexSpecError(f"a namespace cannot be entered: {os.strerror(ctypes.get_errno())}")


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
    with inside(namespace):
        return _make(address)


def _make(address: str) -> int:
    # IPv6 would send router solicitations over a link on which every packet counts.
    for scope in ("all", "default"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        if path.exists():
            path.write_text("1\n", "ascii")
    try:
        tun = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise FlexSpecError(f"{TUN_DEVICE} cannot be opened: {error.strerror}") from None
    try:
        request = struct.pack("16sH22x", _TUN_NAME.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(tun, _TUNSETIFF, request)
        run_ip("link", "set", "lo", "up")
        run_ip("addr", "add", address, "dev", _TUN_NAME)
        run_ip("link", "set", _TUN_NAME, "mtu", str(MTU), "txqueuelen", _QUEUE, "up")
    except OSError as error:
        os.close(tun)
        raise FlexSpecError(f"a TUN device cannot be made: {error.strerror}") from None
    except FlexSpecError:
        os.close(tun)
        raise
    return tun
