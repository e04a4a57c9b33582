"""The device's user on a tour, as a process: asks an edge node as long as there is time, and looks at its plans.

    python -m lab.benchmarks.tour.traveller

A line on standard input is an `Order`; the answer is a `Journey` on standard output, both in JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import msgspec

from flexspec_mq.daemon.tasks import running
from lab.bench.testbed.client import Answer, ask, unbounded
from lab.benchmarks.tour.journey import Journey, Look, Order, Turn
from lab.testbed.site.figures import parse_figures

_TOKENS = 'flexspec_edge_tokens_total{kind="completion"}'
_CONNECTED = "flexspec_edge_link_up"
_FIELDS = ("draft_length", "in_flight", "ahead", "worker_draft", "qos")


async def travel(order: Order) -> Journey:
    """Do what is ordered."""
    began = time.perf_counter()

    def clock() -> float:
        return time.perf_counter() - began

    looks: list[Look] = []
    answers: list[Answer] = []
    async with unbounded() as http:
        before = _tokens(await _figures(http, order.url))
        async with running(_watch(http, order, clock, before, looks), "watch") as watching:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(order.seconds - clock()):
                    await _talk(http, order, answers)
    if not watching.cancelled():
        watching.result()  # it failed, or it would look until it is cancelled
    turns = tuple(
        Turn(
            one.text,
            one.began - began,
            tuple(at - began for at in one.times),
            complete=bool(one.ended) and not one.error,
        )
        for one in answers
    )
    return Journey(turns, tuple(looks), next((one.error for one in answers if one.error), ""))


async def _talk(http: httpx2.AsyncClient, order: Order, answers: list[Answer]) -> None:
    said: list[dict[str, str]] = []
    for number, asked in enumerate(order.asked):
        said.append({"role": "user", "content": asked})
        body: dict[str, Any] = {
            "messages": said,
            "max_tokens": order.tokens,
            "temperature": order.temperature,
            "top_p": 1.0,
            "seed": order.seed + number,
        }
        answers.append(Answer())
        found = await ask(http, order.url, body, answer=answers[-1])
        if found.error:
            return
        said.append({"role": "assistant", "content": found.text})


async def _watch(
    http: httpx2.AsyncClient,
    order: Order,
    clock: Callable[[], float],
    before: int,
    looks: list[Look],
) -> None:
    """Look until cancelled."""
    while True:
        figures = await _figures(http, order.url)
        plans = (await http.get(f"{order.url}/v1/plan")).json()["data"]
        told: dict[str, Any] = {}
        if plans:
            # A node of this benchmark asks for one version only.
            told = {name: plans[0]["plan"][name] for name in _FIELDS}
            told["rtt_ms"] = plans[0]["estimates"]["rtt"]["value"]
        at = clock()
        looks.append(Look(at, _tokens(figures) - before, bool(figures[_CONNECTED]), **told))
        await asyncio.sleep(order.every - at % order.every)


def _tokens(figures: Mapping[str, float]) -> int:
    """Committed since the node began; a counter that never counted is not on the page."""
    return int(figures.get(_TOKENS, 0.0))


async def _figures(http: httpx2.AsyncClient, url: str) -> dict[str, float]:
    return parse_figures((await http.get(f"{url}/metrics")).text)


async def main() -> None:
    """Travel until standard input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        found = await travel(msgspec.json.decode(line, type=Order))
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
