"""Wakes of daemons that have nothing to do, each of which a battery pays for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from tests.broker.deployments import good, made, running
from tests.integration.processes import start

MOST = 2.0
"""Wakes a second."""
SECONDS = 12.0
"""For which they are counted: longer than anything waits that is done now and then, such as a status."""


def wakes(pids: Iterable[int]) -> list[int]:
    """How often threads of each process have begun to wait for something."""
    return [
        sum(
            int(line.split()[1])
            for task in Path(f"/proc/{pid}/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches:")
        )
        for pid in pids
    ]


async def test_idle_daemons_sleep(tiny: Path, tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    good("add-device", directory, "idle")
    edge = ("--config", str(directory / "hand-out" / "edge" / "idle" / "edge.toml"))
    alone = ("--draft", "none", "--tokenizer", str(tiny), "--state-dir", str(tmp_path / "state"))
    with (
        running(None, tmp_path / "private") as (private, _),
        running(directory, tmp_path / "log") as (broker, _),
    ):
        node = await start("edge_node", "serve", *edge, *alone, "--api-port", "0", "--ready-json")
        try:
            await node.event()
            await asyncio.sleep(3)  # it connects, and closes what it has read at its start
            pids = [private.pid, broker.pid, node.pid]
            before, began = wakes(pids), time.monotonic()
            await asyncio.sleep(SECONDS)
            rates = [
                (now - then) / (time.monotonic() - began)
                for now, then in zip(wakes(pids), before, strict=True)
            ]
        finally:
            await node.end()
    assert max(rates) < MOST, rates
    assert rates[0] < 0.5  # a private broker has nothing to look at
