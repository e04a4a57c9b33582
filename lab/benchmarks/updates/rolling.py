"""Updates in a row under a steady load: what becomes of texts, and how soon workers serve the new version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2

from flexspec_mq.errors import FlexSpecError
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, BenchTestbed, place
from lab.benchmarks.updates.texts import Asked, Tokens, references

WORKERS = ("w1", "w2")
KEPT = 4
"""Versions of the catalogue that are not retired."""
_SETTLE = 2.0


@dataclass(slots=True)
class Update:
    """An update.

    Attributes:
        version, head: what was published.
        ready: seconds from then until the first worker served it, and until all did.
    """

    version: str
    head: str
    ready: tuple[float, float]


@dataclass(slots=True)
class Rolled:
    """Outcome of all updates.

    Attributes:
        updates: updates in order.
        texts, failed, inexact: of the load; a text is inexact if its version alone writes another one.
        versions: texts by the version that wrote them.
        errors: the first few.
    """

    updates: list[Update]
    texts: int = 0
    failed: int = 0
    inexact: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


async def updates(
    tokens: Tokens, asked: Sequence[Asked], count: int, sessions: int, say: Callable[[str], None]
) -> Rolled:
    """Publish so many versions under a load of so many sessions.

    Args:
        tokens: tokens of the target.
        asked: texts that the load asks for, over and over.
        count: updates.
        sessions: sessions of the load, all the time.
        say: told what happens.
    """
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(place())
        http = await stack.enter_async_context(unbounded())
        say("workers and edges start")
        *_, edge = await asyncio.gather(*(here.worker(name) for name in WORKERS), here.edge("e1"))
        async with _load(http, edge.url, asked, sessions) as load:
            await _warm(load, sessions)
            say(f"{sessions} sessions go on")
            rolled = Rolled([])
            for number in range(1, count + 1):
                one = await _update(here, number)
                rolled.updates.append(one)
                say(f"{one.version} ({one.head}): ready after {one.ready[0]:.1f} and {one.ready[1]:.1f} s")
                if number >= KEPT:
                    await here.operator.head("retire", f"v{number - KEPT}")
                await asyncio.sleep(_SETTLE)
            await asyncio.sleep(5.0)
    await _judge(tokens, load, rolled, say)
    return rolled


@dataclass(slots=True)
class _Load:
    done: list[tuple[Asked, StreamedAnswer]] = field(default_factory=list)


@asynccontextmanager
async def _load(
    http: httpx2.AsyncClient, url: str, asked: Sequence[Asked], sessions: int
) -> AsyncIterator[_Load]:
    """So many clients ask one text after the other; at the end they finish what they have begun."""
    found, going = _Load(), True

    async def client(number: int) -> None:
        turn = number
        while going:
            one = asked[turn % len(asked)]
            answer = await ask(http, url, {**one.body(), "model": FAMILY})
            found.done.append((one, answer))
            turn += 1
            if answer.error:
                await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        for number in range(sessions):
            group.create_task(client(number))
        try:
            yield found
        finally:
            going = False


async def _warm(load: _Load, sessions: int) -> None:
    while len(load.done) < sessions:  # noqa: ASYNC110  clients append to it
        await asyncio.sleep(0.1)


async def _update(here: BenchTestbed, number: int) -> Update:
    version, head = f"v{number}", HEADS[(number - 1) % len(HEADS)]
    witness = here.witness
    known = len(witness.catalogues)
    command = asyncio.create_task(here.operator.publish(version, EXAMPLES / head, "--state", "stable"))
    await witness.until(lambda: len(witness.catalogues) > known or command.done(), "a catalogue comes")
    if len(witness.catalogues) == known:
        await command
        raise FlexSpecError(f"{version} was published and no catalogue came")
    published = witness.catalogues[-1]

    def ready() -> list[float]:
        return [witness.ready[worker, version] for worker in WORKERS if (worker, version) in witness.ready]

    await witness.until(lambda: len(ready()) == len(WORKERS), f"{version} is ready everywhere")
    await command
    times = min(ready()) - published, max(ready()) - published
    return Update(version, head, times)


async def _judge(tokens: Tokens, load: _Load, rolled: Rolled, say: Callable[[str], None]) -> None:
    """Compare each text with what transformers and peft write."""
    heads = {"v0": ""} | {one.version: one.head for one in rolled.updates}
    good = [(one, answer) for one, answer in load.done if not answer.error]
    rolled.texts, rolled.failed = len(load.done), len(load.done) - len(good)
    rolled.errors = [answer.error for _, answer in load.done if answer.error][:5]
    for _, answer in good:
        rolled.versions[_version(answer)] = rolled.versions.get(_version(answer), 0) + 1
    for head in dict.fromkeys(heads.values()):
        texts = [(one, answer) for one, answer in good if heads[_version(answer)] == head]
        say(f"transformers {'and peft write' if head else 'writes'} what {head or 'the base'} alone writes")
        own = await references(
            tokens, [one for one, _ in texts], 2, head=str(EXAMPLES / head) if head else ""
        )
        rolled.inexact += sum(answer.text != own[one] for one, answer in texts)


def _version(answer: StreamedAnswer) -> str:
    return str(answer.usage.get("flexspec", {}).get("version", ""))
