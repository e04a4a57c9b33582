"""A worker that is killed at a random moment of an update, and what it is like when it is back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flexspec_mq.daemon.tasks import running
from lab.bench.testbed.client import ask, unbounded
from lab.benchmarks.serve.texts import Asked, Tokens, references
from lab.benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, Place, place

_TEXTS = 2
"""That each version is asked for when the worker is back."""


@dataclass(frozen=True, slots=True)
class Crash:
    """One kill.

    Attributes:
        at: seconds after the catalogue with the new version was sent.
        state: what the worker said of the new version last, and what the catalogue said of it.
        back: seconds from its new start until it served all that the catalogue names.
        failed, wrong: of texts asked for afterwards, from the base and from the new version.
    """

    at: float
    state: str
    back: float
    failed: int
    wrong: int

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def moments(count: int, longest: float, seed: int) -> list[float]:
    """So many random moments of an update, one in each of as many equal parts of it, in random order.

    Args:
        count: how many.
        longest: seconds that an update takes.
        seed: of the moments.
    """
    dice = random.Random(seed)
    found = [longest * (part + dice.random()) / count for part in range(count)]
    dice.shuffle(found)
    return found


async def crashes(
    tokens: Tokens, asked: Sequence[Asked], count: int, seed: int, say: Callable[[str], None]
) -> list[Crash]:
    """Kill a worker so many times, each amid an update of its own, and look at what it is then.

    An update is a canary that is published, fetched, loaded, proved, found ready and promoted, and an older version
    that is retired.

    Raises:
        FlexSpecError: it does not come back to the versions of the catalogue.
    """
    texts = list(asked)[:_TEXTS]
    used = dict.fromkeys(_head(number) for number in range(2, count + 2))
    own = {head: await _alone(tokens, texts, head) for head in ("", *used)}
    found: list[Crash] = []
    async with place() as here, unbounded() as http:
        worker, edge = await asyncio.gather(here.worker("w1"), here.edge("e1"))
        update = _Update(here, 1)
        async with running(update.run(), "update") as command:
            await update.published()
            began = time.perf_counter()
            await command
        longest = time.perf_counter() - began
        say(f"an update takes {longest:.1f} s; the worker is killed within it")
        for number, at in enumerate(moments(count, longest, seed), 2):
            update = _Update(here, number)
            async with running(update.run(), "update") as command:
                await update.published()
                await asyncio.sleep(at)
                state = update.state
                update.killed = True  # before the broker says that the worker is gone
                await worker.process.kill()
                await command
            began = time.perf_counter()
            here.witness.workers.clear()
            worker = await here.worker("w1")
            await here.witness.until(
                lambda number=number: _whole(here, number),  # type: ignore[misc]
                "the worker has the versions of the catalogue and no others",
            )
            back = time.perf_counter() - began
            versions = (("v0", own[""]), (update.name, own[update.head]))
            wanted = [
                ({**one.body(), "model": f"{FAMILY}:{version}"}, alone[one])
                for version, alone in versions
                for one in texts
            ]
            answers = await asyncio.gather(*(ask(http, edge.url, body) for body, _ in wanted))
            failed = sum(bool(answer.error) for answer in answers)
            wrong = sum(
                not answer.error and answer.text != text
                for answer, (_, text) in zip(answers, wanted, strict=True)
            )
            found.append(Crash(at, state, back, failed, wrong))
            say(
                f"{len(found)} of {count}: killed after {at:.1f} s ({state}), whole {back:.1f} s later, "
                f"{failed} failed, {wrong} wrong"
            )
    return found


class _Update:
    """One version comes and an old one goes.

    Attributes:
        name, head: what comes.
        killed: the worker was; nothing more is waited for.
    """

    def __init__(self, here: Place, number: int) -> None:
        self.name, self.head = f"v{number}", _head(number)
        self.killed = False
        self._here, self._number = here, number
        self._before = len(here.witness.payloads)
        self._done = "canary"

    @property
    def state(self) -> str:
        """What the worker said of the version last, and what the catalogue says of it."""
        return f"{self._here.witness.states('w1').get(self.name, 'nothing')}, {self._done}"

    async def published(self) -> None:
        """Wait until its catalogue was sent."""
        witness = self._here.witness
        await witness.until(lambda: len(witness.payloads) > self._before, f"{self.name} is published")

    async def run(self) -> None:
        """Give all commands, the second one when the worker is ready for it."""
        operator, witness = self._here.operator, self._here.witness
        await operator.publish(self.name, EXAMPLES / self.head, "--share", "50")
        await witness.until(
            lambda: self.killed or witness.states("w1").get(self.name) == "ready", f"{self.name} is ready"
        )
        await operator.head("promote", self.name)
        self._done = "stable"
        if self._number > 2:
            await operator.head("retire", f"v{self._number - 2}")
            self._done = "stable, an older one retired"


def _head(number: int) -> str:
    return HEADS[(number - 1) % len(HEADS)]


def _whole(here: Place, number: int) -> bool:
    """Whether the worker serves its own version and those that are not retired, and says nothing else."""
    kept = ("base", "v0", *(f"v{one}" for one in (number - 1, number) if one > 0))
    return here.witness.states("w1") == dict.fromkeys(kept, "ready")


async def _alone(tokens: Tokens, texts: Sequence[Asked], head: str) -> dict[Asked, str]:
    return await references(tokens, texts, 2, head=str(EXAMPLES / head) if head else "")
