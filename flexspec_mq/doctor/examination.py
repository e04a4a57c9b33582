"""The frame of an examination: bounded, complete, in order."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flexspec_mq.doctor.findings import Findings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


@asynccontextmanager
async def examination(
    part: str, checks: Sequence[str], tell: Callable[[str], None], timeout: float
) -> AsyncIterator[Findings]:
    """Findings of one part; at the end each check is among them, in the given order.

    Args:
        part: ``edge`` or ``cloud``.
        checks: names of all of them.
        tell: told what is checked now.
        timeout: seconds for the block; what was not checked until then is skipped.
    """
    now = "beginning"

    def note(text: str) -> None:
        nonlocal now
        now = text
        tell(text)

    findings = Findings(part, note)
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            yield findings
    except TimeoutError:
        if not bound.expired():
            raise
        findings.fail(
            "time",
            "time over",
            f"not finished within {timeout:g} s; it was still {now}",
            "give more with --within on a slow machine or link",
        )
    done = {one.name for one in findings.all}
    findings.skip((name for name in checks if name not in done), "not reached")
    order = {name: number for number, name in enumerate(checks)}
    findings.all.sort(key=lambda one: order.get(one.name, len(order)))
