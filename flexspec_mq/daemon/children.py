"""Processes that we start: each ends with us, and its connections may be ended."""

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
_SYNS = 2
"""Tries to connect after the first, which the kernel makes a second apart at first and then ever more rarely."""


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


def quicken(child: int, port: int, silence: float) -> None:
    """Set options of TCP connections that a child process makes (Linux): Nagle's algorithm off, few tries to connect.

    Args:
        child: number of the process.
        port: the other side's, to which connections end that have had no acknowledgement for a while.
        silence: seconds of that while.

    Raises:
        OSError: as of `end_connection`.
    """
    with closing(sockets_of(child)) as sockets:
        for shared in sockets:
            with suppress(OSError):  # a Unix socket has no such options, and who still connects no other side
                shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, _SYNS)
                if shared.getpeername()[1] == port:
                    shared.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * silence))


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
