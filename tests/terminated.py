"""Commands that are ended while they work, as by a user who has seen enough or by a time limit."""

import io
import signal
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout


class _Ends(io.StringIO):
    """Standard error whose process gets SIGTERM with the line behind the first one that has a mark."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark

    def write(self, text: str) -> int:
        if self._mark and self._mark in self.getvalue():
            self._mark = ""
            signal.raise_signal(signal.SIGTERM)
        return super().write(text)


def terminated_at(mark: str, main: Callable[[Sequence[str]], int], *arguments: str) -> tuple[int, str, str]:
    """Run a command, which is ended at what it says next behind a mark: its code, output and errors."""
    out, err = io.StringIO(), _Ends(mark)
    with redirect_stdout(out), redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()
