"""Child processes that speak JSON lines and end with us at the latest."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from flexspec_mq import waiting
from flexspec_mq.daemon.children import end_with_parent
from flexspec_mq.daemon.signals import ENDING
from flexspec_mq.errors import FlexSpecError

_LONGEST_LINE = 2**22
_KEPT_LINES = 2000
_SHOWN_LINES = 30
NO_FILE = ("--config", os.devnull)
"""Daemons that run with the flags that they are given, whatever the user's files say."""
SETTINGS = ("FLEXSPEC_EDGE_", "FLEXSPEC_CLOUD_", "FLEXSPEC_BROKER_", "FLEXSPEC_CHAT_", "FLEXSPEC_HEAD_")


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with the Python that runs us."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Ours, without settings for our daemons, and with edge nodes to which every question is new."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
    return {**ours, "FLEXSPEC_EDGE_REMEMBER": "false"}


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


@contextmanager
def deaf() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM inside a block that ends other processes, so that none is left running.

    Only the main thread may do so; on another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Child:
    """A program of ours that runs; `start` makes one.

    Attributes:
        name: name in messages to people.
        log: file with its standard error, if it has one.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path | None) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._last: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader: asyncio.Task[None] | None = None
        self._reads = asyncio.Lock()
        """Held by who reads standard output: a stream has one reader, and `wait` reads beside `line`."""

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        say: Callable[[str], None] | None = None,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        with_us: signal.Signals = signal.SIGKILL,
        terminal: bool = False,
    ) -> Self:
        """Start a program. It gets none of the environment's settings for our daemons.

        Args:
            name: name in messages to people.
            command: program and arguments.
            say: told each line of its standard error, unless that goes to a file.
            log: the file.
            env: added to our environment.
            with_us: signal that it receives when the thread that started it ends (Linux).
            terminal: true if it has our standard input, output and error; otherwise it hears nothing of Ctrl-C there.
        """
        pipe = None if terminal else asyncio.subprocess.PIPE
        with contextlib.ExitStack() as files:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe if log is None else files.enter_context(log.open("ab")),
                env={**environment(), **(env or {})},
                start_new_session=not terminal,
                preexec_fn=as_child(with_us),
                limit=_LONGEST_LINE,
            )
        made = cls(name, process, log)
        if process.stderr is not None:
            made._reader = asyncio.create_task(made._read_errors(process.stderr, say), name=f"{name} says")
        return made

    @property
    def said(self) -> str:
        """Its standard error; of much of it the end."""
        if self.log is not None:
            return self.log.read_text("utf-8", "replace")
        return "".join(f"{line}\n" for line in self._last)

    async def line(self, within: float = waiting.STARTS) -> bytes:
        """The next line of its standard output.

        Args:
            within: seconds that it may stay silent.

        Raises:
            FlexSpecError: it ended, or was silent for too long.
        """
        try:
            async with asyncio.timeout(within), self._reads:
                found = b"" if self._process.stdout is None else await self._process.stdout.readline()
        except TimeoutError:
            raise FlexSpecError(
                f"the {self.name} said nothing for {within:.0f} s", hint=self._tail()
            ) from None
        if not found:
            raise await self._ended()
        return found

    async def event(
        self, wanted: Callable[[dict[str, Any]], bool] = bool, within: float = waiting.STARTS
    ) -> dict[str, Any]:
        """The first JSON object that is wanted; others are skipped; see `line`."""
        found: dict[str, Any]
        while not wanted(found := json.loads(await self.line(within))):
            pass
        return found

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def wait(self, within: float = 2 * waiting.CONNECT) -> int:
        """Wait for its end; the exit code. Its last words on standard output are dropped.

        Raises:
            TimeoutError: it goes on.
        """
        async with asyncio.timeout(within):
            if self._process.stdout is not None:
                async with self._reads:
                    while await self._process.stdout.read(2**16):
                        pass
            code = await self._process.wait()
            if self._reader is not None:
                await self._reader
        return code

    async def end(
        self, number: signal.Signals = signal.SIGTERM, patience: float = 2 * waiting.CONNECT
    ) -> int:
        """End it: politely, and after `patience` seconds not; the exit code."""
        self.send_signal(number)
        try:
            return await self.wait(patience)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            return await self.wait()
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _tail(self) -> str:
        last = self.said.splitlines()[-_SHOWN_LINES:]
        return "it said:\n    " + "\n    ".join(last) if last else "it gave no reason"

    async def _ended(self) -> FlexSpecError:
        code = await self.wait()
        return FlexSpecError(f"the {self.name} ended with code {code}", hint=self._tail())

    async def _read_errors(self, errors: asyncio.StreamReader, say: Callable[[str], None] | None) -> None:
        while line := await errors.readline():
            self._last.append(line.decode("utf-8", "replace").rstrip())
            if say is not None:
                say(self._last[-1])


C = TypeVar("C", bound=Child)


class Children:
    """Processes that are ended together, the newest first."""

    def __init__(self) -> None:
        self._started: list[Child] = []

    async def start(self, name: str, command: Sequence[str], **options: Any) -> Child:
        """Start one; see `Child.start`."""
        return self.add(await Child.start(name, command, **options))

    def add(self, child: C) -> C:
        """Have one ended with the others."""
        self._started.append(child)
        return child

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with deaf():
            for child in reversed(self._started):
                await child.end()
