"""What holds for every process that we start: it ends with us, and Ctrl-C reaches it."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Make a function that has the calling process receive `number` when its parent's thread ends (Linux)."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def as_child(number: signal.Signals) -> Callable[[], None]:
    """Make a `preexec_fn`: the child receives `number` when we end.

    Ctrl-C means to it what it means to any program, whoever has started us: a shell's background jobs and ``nohup``
    have children ignore SIGINT unless somebody restores it.
    """
    ask = end_with_parent(number)

    def prepare() -> None:
        ask()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return prepare
