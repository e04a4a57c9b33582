"""Lines of standard input, waited for on the event loop, so that Ctrl-C ends the wait."""

from __future__ import annotations

import asyncio
import os
import sys

from flexspec_mq.errors import UsageError

MAX_LINE = 2**20
"""Bytes."""


class InputLines:
    """Gives the lines of standard input, which stays blocking: a terminal's output and the next shell share it."""

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
        """What is there next; empty at the end."""
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
