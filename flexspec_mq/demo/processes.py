"""Child processes that never outlive the demo: ended in order on leaving, and with us if we are killed."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from flexspec_mq.errors import FlexSpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PR_SET_PDEATHSIG = 1
_KEPT_LINES = 30
_SETTINGS = ("FLEXSPEC_EDGE_", "FLEXSPEC_CLOUD_", "FLEXSPEC_BROKER_")


class Child:
    """One process of ours that speaks JSON lines on its standard output.

    Args:
        name: for messages to people.
        command: program and arguments. Of the environment it gets no settings of our daemons.
        say: told each line of its standard error.
    """

    def __init__(self, name: str, command: Sequence[str], say: Callable[[str], None]) -> None:
        self.name = name
        self._say = say
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=10_000)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
            # Ctrl-C is ours to handle: the children end in the order that we choose.
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  one system call
        )
        self._readers = [
            threading.Thread(target=target, daemon=True, name=f"{name}-{target.__name__}")
            for target in (self._read_output, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()

    def send(self, message: dict[str, Any]) -> None:
        """Write one JSON line to its standard input.

        Raises:
            FlexSpecError: it has ended.
        """
        assert self._process.stdin is not None  # noqa: S101  made with a pipe
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def events(self, timeout: float) -> Iterator[dict[str, Any]]:
        """JSON objects from its standard output, for ever.

        Args:
            timeout: seconds that it may stay silent.

        Raises:
            FlexSpecError: it ended, or was silent for too long.
        """
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                raise FlexSpecError(
                    f"the {self.name} said nothing for {timeout:.0f} s", hint=self.tail
                ) from None
            if line is None:
                raise self._ended()
            yield json.loads(line)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], timeout: float) -> dict[str, Any]:
        """The first event that is wanted; others are skipped.

        Raises:
            FlexSpecError: it ended, or was silent for `timeout` seconds.
        """
        for event in self.events(timeout):
            if wanted(event):
                return event
        raise AssertionError("events never end")  # pragma: no cover

    def stop(self, patience: float = 5.0) -> None:
        """End it: politely, then not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    @property
    def tail(self) -> str:
        """The last lines of its standard error."""
        return "\n    ".join(self._last)

    def _ended(self) -> FlexSpecError:
        code = self._process.wait()
        self._readers[1].join(1.0)
        return FlexSpecError(f"the {self.name} ended with code {code}", hint=f"it said:\n    {self.tail}")

    def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  made with a pipe
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None  # noqa: S101  made with a pipe
        for line in self._process.stderr:
            self._last.append(line.rstrip())
            self._say(line.rstrip())


class Family:
    """The children of a demo; leaving the block ends them all, the newest first."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], say: Callable[[str], None]) -> Child:
        """Start a child; see `Child`."""
        child = Child(name, command, say)
        self._children.append(child)
        return child

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # A second Ctrl-C must not leave anything running.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for child in reversed(self._children):
                child.stop()
        finally:
            signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """In the child, before it runs: ask the kernel to end it when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
