"""The device's user, as a process: asks edge nodes over HTTP from their side of a link, one question at a time.

    python -m lab.bench.testbed.client_process

A JSON line with `url` and `body` on standard input is a request; the answer is a JSON line on standard output. A line
with only `url` waits until the edge node there knows a worker; one with `url` and `models` waits until another server
there lists its models, for so many seconds; one with `figures` reads a daemon's ``/metrics``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import asdict
from typing import Any

import httpx2

from lab.bench.testbed.client import ask, unbounded
from lab.testbed.site.figures import parse_figures

_READY_WITHIN = 120.0
"""Seconds for an edge node to hear of a worker."""


async def answer(http: httpx2.AsyncClient, order: dict[str, Any]) -> dict[str, Any]:
    """Do what one line orders."""
    if "figures" in order:
        page = await http.get(f"{order['figures']}/metrics")
        return {"figures": parse_figures(page.text)}
    if "models" in order:
        return {"models": await _models(http, order["url"], order["models"])}
    if "body" not in order:
        return {"ready": await _ready(http, order["url"])}
    found = await ask(http, order["url"], order["body"])
    return {**asdict(found), "seconds": found.seconds, "first": found.first if found.times else None}


async def _ready(http: httpx2.AsyncClient, url: str) -> bool:
    try:
        async with asyncio.timeout(_READY_WITHIN):
            while (await http.get(f"{url}/readyz")).status_code != 200:  # noqa: ASYNC110  another process knows
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def _names(page: httpx2.Response) -> list[str]:
    try:
        return [str(one["id"]) for one in page.json()["data"]]
    except (ValueError, LookupError, TypeError):
        return []  # whatever it is that answers here, it is no such list


async def _models(http: httpx2.AsyncClient, url: str, within: float) -> list[str]:
    """Names of what a server serves; none if it does not say so in time, or says something else."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    page = await http.get(f"{url}/v1/models")
                    if page.status_code == 200:
                        return _names(page)
                await asyncio.sleep(0.2)
    return []


async def main() -> None:
    """Answer lines until standard input ends."""
    loop = asyncio.get_running_loop()
    # Another edge node's answer may take as long as a server waits for a connection to be used again.
    async with unbounded(kept=0) as http:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            sys.stdout.write(json.dumps(await answer(http, json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
