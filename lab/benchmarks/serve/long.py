"""A long prompt that arrives while others stream: how much longer their gaps get."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lab.bench.testbed.client import Answer, ask, unbounded
from lab.benchmarks.serve.daemons import QUICK_STATUS, with_broker
from lab.testbed.site.topology import Site

STREAMS = 8
PLANS = {
    "drafting": (),
    "streaming": ("--draft", "none", "--no-lookup", "--ahead", "64", "--worker-draft", "0"),
}
"""Flags of the edge nodes: the default plan, and no drafts with a worker that runs ahead."""
_CALM = 5.0
"""Seconds of streaming before the long prompt comes; as many count as undisturbed after a first second."""


@dataclass(slots=True)
class Gaps:
    """Seconds between the pieces of the streams, over all rounds.

    Attributes:
        calm, disturbed: before the long prompt came, and until it had its first token.
        waits: seconds that the long prompts waited for theirs.
    """

    calm: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


async def long_prompts(
    prompts: Sequence[Sequence[int]], length: int, rounds: int, seed: int, say: Callable[[str], None]
) -> dict[str, Gaps]:
    """Eight streams and a prompt of `length` tokens in the midst of them, several times, under each plan.

    Raises:
        SystemExit: a text failed.
    """
    rng = random.Random(seed)
    found = {name: Gaps() for name in PLANS}
    async with with_broker() as here:
        _, *started = await asyncio.gather(
            here.worker("w1", *QUICK_STATUS), *(here.edge(name, *flags) for name, flags in PLANS.items())
        )
        edges = {edge.name: edge.url for edge in started}
        for url in edges.values():  # a worker's and an edge node's first texts are slower
            await _round(here, url, prompts, length // 4, rng, Gaps())
        for number in range(rounds):
            for name in rng.sample(list(PLANS), len(PLANS)):
                await _round(here, edges[name], prompts, length, rng, found[name])
                say(f"round {number + 1}, {name}: first token after {found[name].waits[-1]:.1f} s")
    return found


async def _round(
    here: Site, url: str, prompts: Sequence[Sequence[int]], length: int, rng: random.Random, gaps: Gaps
) -> None:
    watched = [Answer() for _ in range(STREAMS)]
    async with unbounded() as http, asyncio.TaskGroup() as group:
        streams = [
            group.create_task(ask(http, url, _endless(rng.choice(prompts), rng), answer=answer))
            for answer in watched
        ]
        while not all(answer.times or answer.error for answer in watched):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began = time.perf_counter()
        await asyncio.sleep(_CALM)
        asked = time.perf_counter()
        long = await ask(
            http, url, {"prompt": _long(prompts, length, rng), "max_tokens": 1, "temperature": 0}
        )
        for stream in streams:  # they would go on for ever
            if stream.done():
                raise SystemExit(f"a stream ended early: {stream.result().error}; see {here.folder}")
            stream.cancel()
    if long.error:
        raise SystemExit(f"the long prompt failed: {long.error}")
    gaps.waits.append(long.seconds)
    for answer in watched:
        gaps.calm += answer.gaps(began + 1.0, asked)
        gaps.disturbed += answer.gaps(asked, long.ended)


def _endless(prompt: Sequence[int], rng: random.Random) -> dict[str, object]:
    return {
        "prompt": list(prompt),
        "max_tokens": 2000,
        "ignore_eos": True,
        "temperature": 0.7,
        "top_p": 1.0,
        "seed": rng.getrandbits(32),
    }


def _long(prompts: Sequence[Sequence[int]], length: int, rng: random.Random) -> list[int]:
    """Prompts in random order; the first tokens differ each time, so that nobody knows its beginning."""
    joined = [rng.randrange(1000, 20_000) for _ in range(4)]
    while len(joined) < length:
        joined += rng.choice(prompts)
    return joined[:length]
