"""Child processes of the demo's kind that can be talked with, measured and made to fail."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flexspec_mq import waiting
from flexspec_mq.demo.children import Child, Children, as_child, environment
from flexspec_mq.errors import FlexSpecError


def stat_of(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` behind the command's name; none when there is no such process (Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


class Process(Child):
    """A child that is more than started and ended."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """With which it ended, minus the number of a signal; None while it runs."""
        return self._process.returncode

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


async def output(name: str, command: Sequence[str], within: float = waiting.STARTS) -> str:
    """Standard output of a program that ends, which is killed with us and after so many seconds.

    Raises:
        FlexSpecError: it failed, or did not end within that time; says why.
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
        async with asyncio.timeout(within):
            said, errors = await process.communicate()
    except TimeoutError:
        raise FlexSpecError(
            f"{name} did not end within {within:g} s", hint="try again on a faster connection or machine"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise FlexSpecError(f"{name} ended with code {process.returncode}", hint=errors.decode().strip())
    return said.decode()


class Processes(Children):
    """Processes that are ended together, the newest first."""

    async def start(self, name: str, command: Sequence[str], **options: Any) -> Process:
        """Start one; see `Process.start`."""
        return self.add(await Process.start(name, command, **options))


@asynccontextmanager
async def running(name: str, command: Sequence[str], **options: Any) -> AsyncIterator[Process]:
    """A process for as long as the block lasts; see `Process.start`."""
    async with Processes() as processes:
        yield await processes.start(name, command, **options)


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """The command that runs `command` on one core."""
    return ["taskset", "--cpu-list", str(core), *command]
