"""Updates in a row under a steady load: what becomes of texts, and how soon new ones are of the new version."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx2

from flexspec_mq.catalogue.signing import opened
from flexspec_mq.errors import FlexSpecError
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.benchmarks._common import percentile
from lab.benchmarks.serve.texts import Asked, Tokens, references
from lab.benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, BenchTestbed, place
from lab.testbed.packet_counter import Received, packet_counter
from schemas.catalogue import Catalogue

WORKERS = ("w1", "w2")
KEPT = 4
"""Versions of the catalogue that are not retired."""
_SETTLE = 2.0
_PROBE = 0.1
_PROBES = 8
"""At once: more would be a load of their own, and the edge takes 64 texts in all."""
_LATE = 10.0


@dataclass(slots=True)
class Update:
    """An update.

    Attributes:
        version, head: what was published.
        published: when its catalogue came to the witness.
        ready: seconds from then until the first worker served it, and until all did.
        first: seconds from the first worker's status until a session began on it, asked for by the family's name.
        stale: probes that began after that status and were of the version before.
        payload: bytes of the catalogue, and how many versions it names.
        quiet_edge: traffic of an edge that asks nothing, from the command until all workers served it.
    """

    version: str
    head: str
    published: float
    ready: tuple[float, float]
    first: float
    stale: int
    payload: tuple[int, int]
    quiet_edge: dict[str, Any]


@dataclass(slots=True)
class Rolled:
    """Outcome of all updates.

    Attributes:
        updates: updates in order.
        texts, failed, inexact: of the load; a text is inexact if its version alone writes another one.
        versions: texts by the version that wrote them.
        errors: the first few.
        gaps: p50, p99 and longest seconds between two pieces of a stream: in updates, and beside them.
        firsts: the same of seconds to a text's first piece.
        late: texts whose first piece took more than ten seconds: version, seconds from the last catalogue with a
            new version to the request, seconds to the piece, and drafts that were judged.
    """

    updates: list[Update]
    texts: int = 0
    failed: int = 0
    inexact: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    gaps: dict[str, list[float]] = field(default_factory=dict)
    firsts: dict[str, list[float]] = field(default_factory=dict)
    late: list[tuple[str, float | None, float, int]] = field(default_factory=list)
    quiet_bytes: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


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
        wire = await stack.enter_async_context(packet_counter(here.here.port))
        http = await stack.enter_async_context(unbounded())
        say("workers and edges start")
        *_, edge, _quiet = await asyncio.gather(
            *(here.worker(name) for name in WORKERS),
            here.edge("e1"),
            here.edge("e2", "--broker", f"127.0.0.1:{wire.port}"),
        )
        async with _load(http, edge.url, asked, sessions) as load:
            await _warm(load, sessions)
            say(f"{sessions} sessions go on")
            before, began = wire.received(), time.perf_counter()
            await asyncio.sleep(10.0)
            quiet = _carried(wire.received() - before, time.perf_counter() - began)
            rolled = Rolled([], quiet_bytes=quiet)
            for number in range(1, count + 1):
                one = await _update(here, http, edge.url, asked[0], number, wire.received)
                rolled.updates.append(one)
                say(
                    f"{one.version} ({one.head}): ready after {one.ready[0]:.1f} and {one.ready[1]:.1f} s, first "
                    f"session {one.first:.2f} s later, {one.payload[0]} B of catalogue with {one.payload[1]} versions"
                )
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


async def _update(
    here: BenchTestbed,
    http: httpx2.AsyncClient,
    url: str,
    probe: Asked,
    number: int,
    received: Callable[[], Received],
) -> Update:
    version, head = f"v{number}", HEADS[(number - 1) % len(HEADS)]
    witness, before, began = here.witness, received(), time.perf_counter()
    known = len(witness.payloads)
    command = asyncio.create_task(here.operator.publish(version, EXAMPLES / head, "--state", "stable"))
    await witness.until(lambda: len(witness.payloads) > known or command.done(), "a catalogue comes")
    if len(witness.payloads) == known:
        await command
        raise FlexSpecError(f"{version} was published and no catalogue came")
    published, payload = witness.payloads[-1]
    named = len(opened(payload, Catalogue, FAMILY).body.versions)

    def ready() -> list[float]:
        return [witness.ready[worker, version] for worker in WORKERS if (worker, version) in witness.ready]

    await witness.until(lambda: bool(ready()), f"{version} is ready somewhere")
    first_ready = min(ready())
    probing = asyncio.create_task(_first(http, url, probe, version))
    await witness.until(lambda: len(ready()) == len(WORKERS), f"{version} is ready everywhere")
    carried = _carried(received() - before, time.perf_counter() - began)
    await command
    first, stale = await probing
    return Update(
        version,
        head,
        published,
        (first_ready - published, max(ready()) - published),
        first - first_ready,
        stale,
        (len(payload), named),
        carried,
    )


async def _first(http: httpx2.AsyncClient, url: str, probe: Asked, version: str) -> tuple[float, int]:
    """Ask for one token every tenth of a second until a version writes it.

    Returns:
        When the first one was asked for that the version wrote, and how many another one wrote.
    """
    body = {**probe.body(), "model": FAMILY, "max_tokens": 1}
    asked: list[asyncio.Task[StreamedAnswer]] = []
    begun = time.perf_counter()
    while True:
        if sum(not task.done() for task in asked) < _PROBES:
            asked.append(asyncio.create_task(ask(http, url, body)))
        await asyncio.wait(asked, timeout=_PROBE)
        await asyncio.sleep(0.01)
        if any(task.done() and _version(task.result()) == version for task in asked):
            answers = await asyncio.gather(*asked)
            new = [one.began for one in answers if _version(one) == version]
            return min(new), len(answers) - len(new)
        if time.perf_counter() - begun > 60.0:
            raise FlexSpecError(f"no session began on {version} within a minute")


async def _judge(tokens: Tokens, load: _Load, rolled: Rolled, say: Callable[[str], None]) -> None:
    """Compare each text with what transformers and peft write, and sort gaps by when they were."""
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
    for _, answer in good:
        if answer.first > _LATE:
            ago = [answer.began - one.published for one in rolled.updates if one.published <= answer.began]
            drafted = answer.usage["flexspec"]["drafted"]
            rolled.late.append((_version(answer), min(ago, default=None), answer.first, drafted))
    spans = [(one.published, one.published + one.ready[1]) for one in rolled.updates]
    begins = min(answer.began for _, answer in good)
    spans_between = list(
        zip([begins, *(end for _, end in spans)], [*(start for start, _ in spans), float("inf")], strict=True)
    )
    for name, parts in (("in updates", spans), ("beside", spans_between)):
        gaps = [gap for _, answer in good for start, end in parts for gap in answer.gaps(start, end)]
        firsts = [
            answer.first
            for _, answer in good
            for start, end in parts
            if start <= answer.began < end and answer.times
        ]
        rolled.gaps[name], rolled.firsts[name] = _spread(gaps), _spread(firsts)


def _spread(values: list[float]) -> list[float]:
    return [percentile(values, share) for share in (0.5, 0.99, 1.0)] if values else []


def _version(answer: StreamedAnswer) -> str:
    return str(answer.usage.get("flexspec", {}).get("version", ""))


def _carried(received: Received, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "messages": dict(received.messages),
        "mqtt": dict(received.mqtt),
        "ip_down": received.ip_down,
        "ip_up": received.ip_up,
    }
