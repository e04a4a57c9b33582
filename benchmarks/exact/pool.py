"""Processes that write the reference texts while the system runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field

from benchmarks.exact.reference import Text, Written
from broker.launcher import end_with_parent

_LONGEST_LINE = 2**22


@dataclass(slots=True)
class ReferencePool:
    """Reference processes that take texts in turn.

    Attributes:
        folder: checkpoint of the target.
        dtype: of it.
        processes: how many, of one thread each.
        module: the program that writes: `reference`, or `solo` for contexts that are too long for it.
        backlog: texts that are asked for and not answered.
    """

    folder: str
    dtype: str
    processes: int
    module: str = "benchmarks.exact.reference"
    backlog: int = 0
    _queue: asyncio.Queue[tuple[Text, asyncio.Future[Written]]] = field(default_factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start the processes."""
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self.processes)]

    async def write(self, text: Text) -> Written:
        """Have a text written; see `reference.Reference.write`. Any number may wait.

        Raises:
            RuntimeError: the process ended.
        """
        answer: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self.backlog += 1
        try:
            await self._queue.put((text, answer))
            return await answer
        finally:
            self.backlog -= 1

    async def end(self) -> None:
        """Kill them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self.module, self.folder, self.dtype),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            limit=_LONGEST_LINE,
            preexec_fn=end_with_parent(signal.SIGKILL),
        )
        assert process.stdin is not None  # noqa: S101  made with pipes
        assert process.stdout is not None  # noqa: S101
        try:
            while True:
                text, answer = await self._queue.get()
                process.stdin.write(json.dumps(asdict(text)).encode() + b"\n")
                line = await process.stdout.readline()
                if not line:
                    answer.set_exception(RuntimeError("a reference process ended"))
                    continue
                answer.set_result(Written(**json.loads(line)))
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
