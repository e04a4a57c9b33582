"""Two daemons of one name: one of them ends, with a code at which its unit does not start it again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.launcher import PrivateBroker
from tests.deploy.files import DEPLOY, unit
from tests.integration.processes import PATIENCE, start


async def test_one_of_them_ends_for_good(mosquitto: PrivateBroker, tiny: Path) -> None:
    command = (
        *("edge_node", "serve", "--broker", f"{mosquitto.host}:{mosquitto.port}", "--edge", "twin"),
        *("--draft", "none", "--tokenizer", str(tiny), "--api-port", "0", "--ready-json"),
    )
    twins = [await start(*command) for _ in range(2)]
    try:
        ends = {asyncio.create_task(twin.wait(PATIENCE)): twin for twin in twins}
        done, (stays,) = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        (end,) = done
        assert end.result() == 4
        assert "another connection" in ends[end].said
        assert "hint: give each process a name of its own" in ends[end].said
        assert not stays.done()
        stays.cancel()
    finally:
        for twin in twins:
            await twin.kill()
    restarts = unit(DEPLOY / "systemd" / "flexspec-edge.service")["RestartPreventExitStatus"]
    assert "4" in restarts[0].split()
