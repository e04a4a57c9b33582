"""Standard streams that stop no daemon: output that cannot be written is left out, input is waited for on the loop."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from typing import TYPE_CHECKING, Literal

from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


MAX_LINE = 2**20
"""Bytes of a line of standard input."""


class _Unfailing(io.FileIO):
    """A descriptor whose writes never fail.

    Attributes:
        lost: lines that were left out and not told of yet.
        failing: whether the last write failed.
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
    wrapper = io.TextIOWrapper(raw, encoding=stream.encoding, errors=stream.errors, line_buffering=True)
    setattr(sys, name, wrapper)


def lost_lines() -> int:
    """How many lines of standard error were left out since the last call; 0 while it cannot be written."""
    raw = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if not isinstance(raw, _Unfailing) or raw.failing:
        return 0
    lost, raw.lost = raw.lost, 0
    return lost


class InputLines:
    """Lines of standard input, which stays blocking: a terminal's output and the next shell share it."""

    def __init__(self) -> None:
        self._fd = None if sys.stdin is None else sys.stdin.fileno()  # None: closed by whoever started us
        self._read = bytearray()
        self._ended = self._fd is None

    async def next(self) -> bytes | None:
        """The next line, without its end; None at the end of the input.

        Raises:
            UsageError: the line is too long; the one after it may be asked for.
        """
        too_long = False
        while b"\n" not in self._read and not self._ended:
            if len(self._read) > MAX_LINE:  # drop it as it comes
                too_long = True
                self._read.clear()
            part = await self._some()
            self._read += part
            self._ended = not part
        line, newline, rest = bytes(self._read).partition(b"\n")
        self._read = bytearray(rest)
        if too_long or len(line) > MAX_LINE:
            raise UsageError(f"a line has more than {MAX_LINE} bytes", hint="shorten it")
        return line.removesuffix(b"\r") if line or newline else None

    async def _some(self) -> bytes:
        """Read what is there next; empty at the end."""
        assert self._fd is not None  # noqa: S101  it has ended otherwise
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        try:
            loop.add_reader(self._fd, ready.set)
        except OSError:  # a file, for which nobody has to wait
            return os.read(self._fd, 2**16)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self._fd)
        return os.read(self._fd, 2**16)
