"""Child processes that speak JSON lines, end with us at the latest, and can be made to fail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Self

from flexspec_mq.daemon.children import end_with_parent
from flexspec_mq.daemon.signals import ENDING
from flexspec_mq.errors import FlexSpecError

READY_WITHIN = 300.0
"""Seconds that a process may stay silent while it loads a model and proves it, on a busy machine."""
END_WITHIN = 10.0
"""Seconds after SIGTERM before SIGKILL."""
_LONGEST_LINE = 2**22
_KEPT_LINES = 2000
_SHOWN_LINES = 30
SETTINGS = ("FLEXSPEC_EDGE_", "FLEXSPEC_CLOUD_", "FLEXSPEC_BROKER_", "FLEXSPEC_CHAT_", "FLEXSPEC_HEAD_")


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with the Python that runs us."""
    return [sys.executable, "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Ours, without settings for our daemons, and with edge nodes to which every question is new."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
    return {**ours, "FLEXSPEC_EDGE_REMEMBER": "false"}


def stat_of(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` behind the command's name; none when there is no such process (Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float | None:
    """Seconds of the processor that a process has taken, its threads' included; None when there is none (Linux)."""
    in_modes = stat_of(pid)[11:13]  # in user and in kernel mode
    return sum(map(int, in_modes)) / os.sysconf("SC_CLK_TCK") if in_modes else None


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


class Process:
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
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float | None:
        """Seconds of the processor that it has taken; None where the system does not tell, or it has ended."""
        return cpu_seconds(self.pid)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """With which it ended, minus the number of a signal; None while it runs."""
        return self._process.returncode

    @property
    def said(self) -> str:
        """Its standard error; of much of it the end."""
        if self.log is not None:
            return self.log.read_text("utf-8", "replace")
        return "".join(f"{line}\n" for line in self._last)

    async def send(self, message: object) -> None:
        """Write a line to its standard input: bytes as they are, anything else as JSON.

        Raises:
            FlexSpecError: it has ended.
        """
        assert self._process.stdin is not None
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        try:
            self._process.stdin.write(line + b"\n")
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise await self._ended() from None

    async def line(self, within: float = READY_WITHIN) -> bytes:
        """The next line of its standard output.

        Args:
            within: seconds that it may stay silent.

        Raises:
            FlexSpecError: it ended, or was silent for too long.
        """
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within), self._reads:
                found = await self._process.stdout.readline()
        except TimeoutError:
            raise FlexSpecError(
                f"the {self.name} said nothing for {within:.0f} s", hint=self._tail()
            ) from None
        if not found:
            raise await self._ended()
        return found

    async def event(
        self, wanted: Callable[[dict[str, Any]], bool] = bool, within: float = READY_WITHIN
    ) -> dict[str, Any]:
        """The first JSON object that is wanted; others are skipped; see `line`."""
        while not wanted(found := json.loads(await self.line(within))):
            pass
        assert isinstance(found, dict)
        return found

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def pause(self) -> None:
        """Have it hang, as a machine that swaps or a network that is cut."""
        self.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on after `pause`."""
        self.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)
        await self.wait()

    async def wait(self, within: float = END_WITHIN) -> int:
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

    async def end(self, number: signal.Signals = signal.SIGTERM, patience: float = END_WITHIN) -> int:
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


async def output(name: str, command: Sequence[str]) -> str:
    """Standard output of a program that ends, which is killed with us and after five minutes.

    Raises:
        FlexSpecError: it failed; says why.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        preexec_fn=as_child(signal.SIGKILL),
    )
    try:
        async with asyncio.timeout(READY_WITHIN):
            said, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise FlexSpecError(f"{name} ended with code {process.returncode}", hint=errors.decode().strip())
    return said.decode()


class Processes:
    """Processes that are ended together, the newest first."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    async def start(self, name: str, command: Sequence[str], **options: Any) -> Process:
        """Start one; see `Process.start`."""
        process = await Process.start(name, command, **options)
        self._started.append(process)
        return process

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        with deaf():
            for process in reversed(self._started):
                await process.end()


@asynccontextmanager
async def running(name: str, command: Sequence[str], **options: Any) -> AsyncIterator[Process]:
    """A process for as long as the block lasts; see `Process.start`."""
    async with Processes() as processes:
        yield await processes.start(name, command, **options)


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command that runs `command` on one core."""
    return ["taskset", "--cpu-list", str(core), *command]
