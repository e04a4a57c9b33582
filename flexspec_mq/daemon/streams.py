"""Standard streams that stop no daemon: lines that cannot be written, on a full disk for example, are left out."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unfailing(io.FileIO):
    """A descriptor whose writes never fail.

    Attributes:
        lost: lines that were left out and not told of yet.
        failing: the last write failed.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost = 0
        self.failing = False

    def write(self, data: ReadableBuffer) -> int:
        """Write, or leave it out."""
        view = memoryview(data)
        try:
            written = super().write(view)
        except OSError:
            self.failing = True
            self.lost += view.tobytes().count(b"\n")
            return view.nbytes
        self.failing = False
        return written


def never_fails(name: Literal["stdout", "stderr"]) -> None:
    """Let no write to a standard stream of this process fail from now on; one that was replaced stays as it is."""
    stream = getattr(sys, name)
    if stream is None or stream is not getattr(sys, f"__{name}__"):
        return
    stream.flush()
    raw = io.BufferedWriter(_Unfailing(stream.fileno()))
    made = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
    setattr(sys, name, made)


def lost_lines() -> int:
    """How many lines of standard error were left out since the last call; 0 while it cannot be written."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if not isinstance(raw, _Unfailing) or raw.failing:
        return 0
    lost, raw.lost = raw.lost, 0
    return lost
