"""``flexspec head watch`` beside canaries that are bad, and beside good ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2
import torch

from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError
from lab.bench.client import ask, unbounded
from lab.benchmarks.serve.texts import Asked
from lab.benchmarks.updates.canaries import Head, bad_heads, good_heads
from lab.benchmarks.updates.place import FAMILY, BenchTestbed, place
from lab.testbed.deployment import Daemon
from lab.testbed.process import Process, python

_USERS = 8
_SHARES = {True: "50", False: "65"}
"""Percent of new conversations, of bad canaries and of good ones: those have many more answers to give."""
_MOST = 160
"""Answers after which a canary counts as undecided, as it does after `_WITHIN` seconds."""
_WITHIN = 400.0
_QUIET = 3600.0
"""Seconds that a watch may say nothing."""
_RUNS, _PERIOD = 0.2, 0.05
"""Share of the time that a slow worker may run, and seconds after which it may again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One canary.

    Attributes:
        name: what it is.
        bad: whether it should be aborted.
        outcome: ``aborted``, ``promoted`` or ``undecided``.
        answers: of the canary by which the watch decided, or until we did not wait any more.
        acceptance: of the canary and of the stable version.
        slower: times the seconds a token of the stable version, as the watch estimates it; None where it did not say.
        why: what watch said.
    """

    name: str
    bad: bool
    outcome: str
    answers: int
    acceptance: tuple[float, float]
    slower: float | None
    why: str

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


async def watched(asked: Sequence[Asked], good: int, say: Callable[[str], None]) -> list[Watched]:
    """Publish canaries beside a watch, bad ones whose own canary prompts pass and good ones, and see what it does."""
    torch.set_num_threads(1)  # two that meet after every small product crawl beside a worker that computes
    heads, found = (*bad_heads(), *good_heads(good)), []
    async with place() as here:
        _, edge = await asyncio.gather(here.worker("w1"), here.edge("e1"))
        async with _watch(here) as watch:
            for number, head in enumerate(heads, 1):
                one = await _canary(here, edge, asked, head, watch)
                found.append(one)
                say(f"{number} of {len(heads)}, {one.name}: {one.why or one.outcome}")
    return found


@dataclass
class _Watch:
    """A watch, and what it has said."""

    process: Process
    said: list[str] = field(default_factory=list)
    listening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Note what it says, until cancelled."""
        while True:
            self.said.append((await self.process.line(_QUIET)).decode().strip())

    def of(self, name: str) -> str:
        """What it said when it decided on a canary; empty before."""
        decided = (f"aborted {name}:", f"promoted {name} ")
        return next((line for line in self.said if line.startswith(decided)), "")


@asynccontextmanager
async def _watch(here: BenchTestbed) -> AsyncIterator[_Watch]:
    operator = here.operator
    flags = (*operator.signing(), "--state-dir", str(operator.folder / "state" / "watch"))
    process = await here.here.start("watch", "cloud", python("flexspec_mq.cli", "head", "watch", *flags))
    await process.line()
    found = _Watch(process)
    async with running(found.listen(), "watch") as found.listening:
        yield found
    await process.end()


async def _canary(
    here: BenchTestbed, edge: Daemon, asked: Sequence[Asked], head: Head, watch: _Watch
) -> Watched:
    """Publish one and let users ask until the watch decides.

    Raises:
        FlexSpecError: a text failed, or the watch ended.
    """
    operator, name = here.operator, head.name
    folder = operator.folder / name
    await asyncio.to_thread(head.make, folder)
    async with contextlib.AsyncExitStack() as stack:
        apart = str(operator.folder / "apart")
        await operator.publish(
            name, folder, "--share", _SHARES[head.bad], *(("--upload", apart) if head.apart else ())
        )
        if head.apart:
            own = await here.here.worker("w2", *operator.follow("w2"), "--heads", apart)
            stack.push_async_callback(own.process.end)
        await here.holds(["w2" if head.apart else "w1"], name)
        if head.apart:
            await stack.enter_async_context(running(slowed(own.process), "slow worker"))
        async with _users(edge, asked) as answers:
            await _decided(watch, name, answers)
        listed = {one["name"]: one for one in (await operator.listed())["versions"]}
        said = watch.of(name)
        if said.startswith("promoted"):
            await operator.head("rollback", "v0")
        await operator.head("retire", name)
    return outcome(head, said, answers[name], [listed[one]["acceptance"] for one in (name, "v0")])


async def _decided(watch: _Watch, name: str, answers: Counter[str]) -> None:
    """Wait until a watch has decided, or for as long as anybody would.

    Raises:
        FlexSpecError: the watch ended.
    """
    assert watch.listening is not None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WITHIN):
            while not watch.of(name) and answers[name] < _MOST:
                await asyncio.wait((watch.listening,), timeout=0.1)
                if watch.listening.done():
                    watch.listening.result()


def outcome(head: Head, said: str, counted: int, acceptance: Sequence[Sequence[float] | None]) -> Watched:
    """What became of a canary, by the words of the watch where it said any."""
    after, slower = re.search(r"after (\d+) answers", said), re.search(r"(\S+) \([^)]*\) times as slow", said)
    rates = [(one or [0.0, 0.0])[1] for one in acceptance]
    return Watched(
        head.name,
        head.bad,
        said.split(maxsplit=1)[0] if said else "undecided",
        int(after[1]) if after else counted,
        (rates[0], rates[1]),
        float(slower[1]) if slower else None,
        said,
    )


async def slowed(process: Process) -> None:
    """Let a process run for a part of the time only, until cancelled."""
    try:
        while True:
            process.resume()
            await asyncio.sleep(_RUNS * _PERIOD)
            process.pause()
            await asyncio.sleep((1 - _RUNS) * _PERIOD)
    finally:
        process.resume()


@asynccontextmanager
async def _users(edge: Daemon, asked: Sequence[Asked]) -> AsyncIterator[Counter[str]]:
    """Users who each begin a conversation of their own with every question, as long as the block lasts.

    Returns:
        Answers so far, by the version that wrote them.
    """
    going, numbers = True, itertools.count()
    found: Counter[str] = Counter()

    async def user(http: httpx2.AsyncClient) -> None:
        while going:
            number = next(numbers)
            body = {**asked[number % len(asked)].body(), "model": FAMILY, "prompt_cache_key": str(number)}
            answer = await ask(http, edge.url, body)
            if answer.error:
                raise FlexSpecError("a text failed", hint=answer.error)
            found[answer.usage["flexspec"]["version"]] += 1

    async with unbounded() as http, asyncio.TaskGroup() as group:
        for _ in range(_USERS):
            group.create_task(user(http))
        try:
            yield found
        finally:
            going = False
