"""Worker processes that are killed and stopped at random, and replaced."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.exact.identities import Identities
from lab.benchmarks.exact.worker import Trace
from lab.testbed.process import Process, python

_NAMESAKES = 0.5
"""Share of the workers that are killed whose place one of the same name takes."""


@dataclass(slots=True)
class _Worker:
    name: str
    process: Process
    ready: bool = False
    stopped: bool = False


@dataclass(slots=True)
class Fleet:
    """Workers of one version at one broker.

    Attributes:
        arguments: arguments of ``flexspec-cloud``, the same for all of them.
        folder: folder for their logs and traces.
        rng: decides who dies.
        say: told what happens.
        identities: give each worker keys of its own; None leaves them without.
        kills, hangs, started: counts.
        namesakes: namesakes of those started, in the place and by the name of one that was killed.
    """

    arguments: Sequence[str]
    folder: Path
    rng: random.Random
    say: Callable[[str], None]
    identities: Identities | None = None
    kills: int = 0
    hangs: int = 0
    started: int = 0
    namesakes: int = 0
    _keys: dict[str, Path] = field(default_factory=dict)
    _workers: list[_Worker] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def ready(self) -> int:
        """Workers that serve now."""
        return sum(worker.ready and not worker.stopped for worker in self._workers)

    async def start(self, name: str | None = None) -> None:
        """Add a worker, with a prefill budget drawn anew, and wait until it serves.

        Args:
            name: name of one that was killed; None is a new one.

        Raises:
            FlexSpecError: it ended or took more than five minutes.
        """
        number = self.started
        self.started += 1
        self.namesakes += name is not None
        name = name or f"w{number}"
        # Small and odd ones cut prefixes into many pieces, anywhere.
        prefill = self.rng.choice((17, 33, 64, 101, 128, 256))
        # By worth a crowded worker seldom drafts; with all, forwards hold whatever drafts there are.
        rows = self.rng.choice(("worth", "all"))
        keys: tuple[str, ...] = ()
        if self.identities is not None:
            if name not in self._keys:
                self._keys[name] = self.identities.written(self.identities.worker(name), self.folder)
            keys = ("--keys", str(self._keys[name]))
        command = python(
            *("lab.benchmarks.exact.worker", str(self.folder / f"trace-{number}")),
            *("--ready-json", "--worker", name, "--prefill", str(prefill), "--draft-rows", rows),
            *keys,
            *self.arguments,
        )
        log = self.folder / f"worker-{number}.log"
        worker = _Worker(name, await Process.start(f"worker {number}", command, log=log))
        self._workers.append(worker)
        ready = await worker.process.event()
        if ready["exactness"] != "exact":
            self.say(f"worker {number} says: {ready}")
        worker.ready = True

    def strike(self) -> bool:
        """Kill one of at least two workers that serve, or stop it for some seconds; tell whether one was hit.

        The one that was killed is replaced.
        """
        serving = [worker for worker in self._workers if worker.ready and not worker.stopped]
        if len(serving) < 2:
            return False
        victim = self.rng.choice(serving)
        if self.rng.random() < 0.25:
            self.hangs += 1
            self._spawn(self._hang(victim, self.rng.uniform(3.0, 12.0)))
            return True
        self.kills += 1
        victim.process.send_signal(signal.SIGKILL)
        self._workers.remove(victim)
        self._spawn(self._replace(victim))
        return True

    def check(self) -> None:
        """Raise what a background task raised.

        Raises:
            FlexSpecError: a replacement did not start, or a worker ended by itself.
        """
        for task in [task for task in self._tasks if task.done()]:
            self._tasks.discard(task)
            task.result()
        for worker in self._workers:
            if worker.ready and not worker.process.runs:
                raise FlexSpecError(
                    f"the {worker.process.name} ended by itself with {worker.process.exit_code}:\n"
                    f"{worker.process.said[-4000:]}"
                )

    async def end(self) -> None:
        """Kill all."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers:
            await worker.process.kill()

    def trace(self) -> Trace:
        """Trace of all of them so far."""
        return Trace.read([self.folder / f"trace-{number}" for number in range(self.started)])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def _replace(self, victim: _Worker) -> None:
        await victim.process.wait()
        await self.start(victim.name if self.rng.random() < _NAMESAKES else None)

    async def _hang(self, victim: _Worker, seconds: float) -> None:
        """Have it hang for a while: a worker that comes back with sessions that others hold by then."""
        victim.stopped = True
        victim.process.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.process.resume()
            victim.stopped = False
