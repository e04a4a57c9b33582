"""Many requests at once, at one API or several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx2

from lab.bench.testbed.client import Answer, ask


async def ask_all(
    http: httpx2.AsyncClient, urls: Sequence[str], bodies: Sequence[Mapping[str, object]]
) -> list[Answer]:
    """Ask for all at once, at the APIs in turn."""
    return await asyncio.gather(
        *(ask(http, urls[number % len(urls)], body) for number, body in enumerate(bodies))
    )
