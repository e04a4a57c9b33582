"""A broker that is killed while answers are written, and while nobody asks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2

from flexspec_mq.errors import FlexSpecError
from lab.bench.testbed.client import Answer, ask
from lab.benchmarks.outages.deployment import Deployment

_LOOK = 0.02
_PATIENCE = 60.0
_AGAIN = 0.2
"""Seconds after which a user whose question was refused asks again."""


async def going_on(
    here: Deployment, http: httpx2.AsyncClient, seconds: float, streams: int, tokens: int
) -> list[float]:
    """Have answers written at all devices, and kill the broker when each has begun.

    Args:
        here: with its broker.
        http: without bounds on its connections.
        seconds: that the broker is away.
        streams: answers at once.
        tokens: of each.

    Returns:
        Seconds from the broker's return to the next piece of each answer; below 0 for one that was over before.

    Raises:
        FlexSpecError: an answer failed.
    """
    answers = [Answer() for _ in range(streams)]
    async with asyncio.TaskGroup() as group:
        for number, answer in enumerate(answers):
            url = here.urls[number % len(here.urls)]
            group.create_task(ask(http, url, _body(number, tokens), answer=answer))
        while not all(answer.times or answer.ended for answer in answers):  # noqa: ASYNC110  other tasks write them
            await asyncio.sleep(_LOOK)
        back = await here.broker_away(seconds)
    for answer in answers:
        if answer.error:
            raise FlexSpecError(f"an answer failed as the broker was away: {answer.error}")
    return [min((at for at in answer.times if at > back), default=answer.ended) - back for answer in answers]


async def first_token(here: Deployment, http: httpx2.AsyncClient, seconds: float, later: float) -> float:
    """Kill the broker while nobody asks, and ask when it is back.

    Args:
        here: with its broker.
        http: without bounds on its connections.
        seconds: that the broker is away.
        later: seconds from its return to the question.

    Returns:
        Seconds from the question to its first token; whoever is refused asks again.

    Raises:
        FlexSpecError: there is none within a minute.
    """
    await here.broker_away(seconds)
    await asyncio.sleep(later)
    began = time.perf_counter()
    while (answer := await ask(http, here.urls[0], _body(0, 16))).error:
        if time.perf_counter() > began + _PATIENCE:
            raise FlexSpecError(f"nobody answers although the broker is back: {answer.error}")
        await asyncio.sleep(_AGAIN)
    return answer.times[0] - began


def _body(number: int, tokens: int) -> dict[str, Any]:
    asked = f"Write a long story about a lighthouse keeper who sees {number + 2} ships."
    return {
        "messages": [{"role": "user", "content": asked}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
