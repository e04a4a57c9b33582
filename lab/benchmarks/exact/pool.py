"""Processes that write the reference texts while the system runs."""

import asyncio
from dataclasses import asdict, dataclass, field
from math import inf

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.exact.reference import ReferenceText, Text
from lab.testbed.process import running


@dataclass(slots=True)
class ReferencePool:
    """Reference processes that take texts in turn.

    Attributes:
        folder: checkpoint of the target.
        dtype: number format of it.
        processes: how many, of one thread each.
        head: PEFT adapter directory that `reference` puts into the target; empty is none.
    """

    folder: str
    dtype: str
    processes: int
    head: str = ""
    _queue: asyncio.Queue[tuple[Text, asyncio.Future[ReferenceText]]] = field(default_factory=asyncio.Queue)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        """Start the processes."""
        self._tasks = [asyncio.create_task(self._serve()) for _ in range(self.processes)]

    async def write(self, text: Text) -> ReferenceText:
        """Have a text written; see `reference.Reference.write`. Any number may wait.

        Raises:
            FlexSpecError: the process ended.
        """
        answer: asyncio.Future[ReferenceText] = asyncio.get_running_loop().create_future()
        await self._queue.put((text, answer))
        return await answer

    async def end(self) -> None:
        """Kill them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        command = python(
            "lab.benchmarks.exact.reference", self.folder, self.dtype, *([self.head] if self.head else [])
        )
        env = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        async with running("reference process", command, env=env) as process:
            while True:
                text, answer = await self._queue.get()
                try:
                    await process.send(asdict(text))
                    answer.set_result(ReferenceText(**await process.event(within=inf)))
                except FlexSpecError as error:
                    answer.set_exception(error)
