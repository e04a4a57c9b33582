"""A worker that is killed at a random moment of an update, and what it is like when it is back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.serve.client import ask, unbounded
from benchmarks.serve.texts import Asked, Tokens, references
from benchmarks.updates.place import EXAMPLES, FAMILY, HEADS, Place, place


@dataclass(frozen=True, slots=True)
class Crash:
    """One kill.

    Attributes:
        at: seconds after the update's command began.
        state: what the worker said of the new version last.
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


async def crashes(
    tokens: Tokens, asked: Sequence[Asked], count: int, seed: int, say: Callable[[str], None]
) -> list[Crash]:
    """Kill a worker so many times, each amid an update of its own, and look at what it is then.

    Raises:
        FlexSpecError: it does not come back to the versions of the catalogue.
    """
    dice, texts = random.Random(seed), list(asked)[:2]
    used = dict.fromkeys(HEADS[(number - 1) % len(HEADS)] for number in range(2, count + 2))
    own = {head: await _alone(tokens, texts, head) for head in ("", *used)}
    found: list[Crash] = []
    async with place() as here, unbounded() as http:
        worker, edge = await asyncio.gather(here.worker("w1"), here.edge("e1"))
        began = time.perf_counter()
        await here.operator.publish("v1", EXAMPLES / HEADS[0], "--state", "stable")
        await here.holds(["w1"], "v1")
        longest = time.perf_counter() - began
        say(f"an update takes {longest:.1f} s; the worker is killed within it")
        for number in range(2, count + 2):
            name, head, at = f"v{number}", HEADS[(number - 1) % len(HEADS)], dice.uniform(0, longest)
            command = asyncio.create_task(_change(here, name, head, number))
            await asyncio.sleep(at)
            state = here.witness.states("w1").get(name, "nothing")
            await worker.process.kill()
            await command
            began = time.perf_counter()
            here.witness.workers.clear()
            worker = await here.worker("w1")
            await here.holds(["w1"], name)
            await here.witness.until(
                lambda number=number: _whole(here, number),  # type: ignore[misc]
                "the worker has the versions of the catalogue and no others",
            )
            back = time.perf_counter() - began
            failed = wrong = 0
            for version, which in (("v0", ""), (name, head)):
                for one in texts:
                    answer = await ask(http, edge.url, {**one.body(), "model": f"{FAMILY}:{version}"})
                    failed += bool(answer.error)
                    wrong += not answer.error and answer.text != own[which][one]
            found.append(Crash(at, state, back, failed, wrong))
            say(
                f"killed after {at:.1f} s ({name} {state}), whole {back:.1f} s later, {failed} failed, {wrong} wrong"
            )
    return found


async def _change(here: Place, name: str, head: str, number: int) -> None:
    """One version comes and an old one goes, so that both are interrupted."""
    await here.operator.publish(name, EXAMPLES / head, "--state", "stable")
    if number > 2:
        await here.operator.head("retire", f"v{number - 2}")


def _whole(here: Place, number: int) -> bool:
    """Whether the worker serves its own version and those that are not retired, and says nothing else."""
    kept = ("base", "v0", *(f"v{one}" for one in (number - 1, number) if one > 0))
    return here.witness.states("w1") == dict.fromkeys(kept, "ready")


async def _alone(tokens: Tokens, texts: Sequence[Asked], head: str) -> dict[Asked, str]:
    return await references(tokens, texts, 2, head=str(EXAMPLES / head) if head else "")
