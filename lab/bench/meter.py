"""Costs of an answer beside its time: bytes on the link, and work of the worker."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.netns import NetnsLink
from lab.testbed.metrics import live_sessions, since
from lab.testbed.process import Process

_FORWARDS = "flexspec_worker:compute_seconds_count"
_CPU = "process_cpu_seconds_total"
_SETTLED_WITHIN = 2.0
"""Seconds after an answer for its session to end at the worker, so that all of it is counted."""
_LOOK = 0.02
_ANSWER = 60.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of an answer.

    Attributes:
        ip_up, ip_down: bytes that the device and the cloud put on the link, lost ones included; None without a link.
        forwards: forwards of the target, those that read the prompt included; None where the target does not tell.
        worker_s: seconds of the processor that the worker's process took, whatever for; None where nobody knows.
    """

    ip_up: int | None
    ip_down: int | None
    forwards: int | None = 0
    worker_s: float | None = 0.0


class LinkMeter:
    """Reads a link before and after an answer.

    Args:
        link: None on loopback.
    """

    def __init__(self, link: NetnsLink | None) -> None:
        self._link = link
        self._counters: LinkCounters | None = None

    def begin(self, at: float | None) -> None:
        """An answer begins now.

        Args:
            at: second of the channel to set the link to; None lets it go on.
        """
        if self._link is not None:
            self._counters = self._link.counters if at is None else self._link.seek(at)

    def end(self) -> tuple[int | None, int | None]:
        """Bytes that device and cloud have put on the link since, lost ones included; None without a link."""
        if self._link is None or self._counters is None:
            return None, None
        now = self._link.counters
        up = now.up.bytes_in - self._counters.up.bytes_in
        return up, now.down.bytes_in - self._counters.down.bytes_in


class Meter:
    """Reads link and worker before and after an answer. Answers come one after the other.

    Args:
        link: between the two.
        reader: process that runs `lab.bench.client` on the cloud's side.
        worker: URL of the worker's figures, as seen from there.
    """

    def __init__(self, link: LinkMeter, reader: Process, worker: str) -> None:
        self._link = link
        self._reader = reader
        self._worker = worker
        self._figures: dict[str, float] = {}

    async def begin(self, at: float | None) -> None:
        """An answer begins now.

        Args:
            at: second of the channel to set the link to; None lets it go on.
        """
        self._figures = await self._read()
        self._link.begin(at)

    async def end(self) -> Costs:
        """The answer is there: what has it cost?"""
        ends = time.monotonic() + _SETTLED_WITHIN
        figures = await self._read()
        while live_sessions(figures) > live_sessions(self._figures) and time.monotonic() < ends:
            await asyncio.sleep(_LOOK)
            figures = await self._read()
        rose = since(self._figures, figures)
        up, down = self._link.end()
        return Costs(up, down, int(rose[_FORWARDS]), rose[_CPU])

    async def _read(self) -> dict[str, float]:
        await self._reader.send({"figures": self._worker})
        found: dict[str, float] = (await self._reader.event(lambda event: "figures" in event, _ANSWER))[
            "figures"
        ]
        return found
