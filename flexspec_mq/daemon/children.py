"""Processes that we start: each ends with us, and it can be told from others."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_START_FIELD = 19  # of /proc/<pid>/stat, counted after the command's name


def end_with_parent(number: signal.Signals) -> Callable[[], None]:
    """Make a function that has the calling process receive `number` when its parent's thread ends (Linux)."""
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def started(pid: int) -> int | None:
    """Start time of a process in ticks since boot, which tells it from a later one of the same number.

    None when there is none, or only a zombie.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[_START_FIELD])
