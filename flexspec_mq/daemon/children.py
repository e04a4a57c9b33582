"""Processes that we start: each ends with us, and its connections may be ended."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PIDFD_GETFD = 438
"""Number of the system call, on every architecture (Linux 5.6)."""


def end_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Make a function that has the calling process receive `number` when its parent's thread ends (Linux)."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def end_connection(child: int, host: str, port: int) -> bool:
    """End the connection that a child process has from an address; False if it has none (Linux).

    Raises:
        OSError: the system does not let us, as in a container where system calls are filtered.
    """
    with closing(sockets_of(child)) as sockets:
        for shared in sockets:
            with suppress(OSError):
                if shared.getpeername()[:2] == (host, port):
                    shared.shutdown(socket.SHUT_RDWR)
                    return True
    return False


def send_at_once(child: int) -> None:
    """Turn Nagle's algorithm off on all TCP connections of a child process (Linux).

    Raises:
        OSError: as of `end_connection`.
    """
    with closing(sockets_of(child)) as sockets:
        for shared in sockets:
            with suppress(OSError):  # a Unix socket has no such option
                shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def sockets_of(child: int) -> Generator[socket.socket]:
    """Sockets of a child process, each a copy that is closed when the next is asked for, the newest first."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(child)
    try:
        for path in sorted(Path(f"/proc/{child}/fd").iterdir(), key=lambda path: -int(path.name)):
            with suppress(FileNotFoundError):
                if not str(path.readlink()).startswith("socket:"):
                    continue
                if (copy := libc.syscall(_PIDFD_GETFD, process, int(path.name), 0)) < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
                with closing(socket.socket(fileno=copy)) as shared:
                    yield shared
    finally:
        os.close(process)
