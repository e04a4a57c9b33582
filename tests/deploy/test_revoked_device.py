"""A device that was revoked is told so: by the statement, the login or TLS; while it runs, and at a new start."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from flexspec_mq.errors import LinkRefused
from tests.broker.deployments import good, made, running
from tests.daemons import until
from tests.integration.processes import PATIENCE, start


@pytest.mark.parametrize(
    ("flags", "while_it_runs", "when_it_starts"),
    [
        (("--keys",), "this device was revoked", "this client was revoked"),
        ((), "this client was revoked", "this client was revoked"),
        (("--keys", "--client-certificates"), "this device was revoked", "client.crt was revoked"),
        (("--client-certificates",), "client.crt was revoked", "client.crt was revoked"),
    ],
    ids=["keys", "passwords", "keys and certificates", "certificates"],
)
async def test_a_revoked_device_is_told_so(
    tmp_path: Path, tiny: Path, flags: tuple[str, ...], while_it_runs: str, when_it_starts: str
) -> None:
    deployment = made(tmp_path / "d", *flags)
    good("add-device", deployment, "alice")
    files = shutil.copytree(deployment / "hand-out" / "edge" / "alice", tmp_path / "alice")
    command = (
        *("edge_node", "serve", "--config", str(files / "edge.toml"), "--draft", "none"),
        *("--tokenizer", str(tiny), "--api-port", "0", "--ready-json", "--log-level", "info"),
    )
    with running(deployment, tmp_path / "log"):
        edge = await start(*command)
        try:
            await edge.event(lambda line: bool(line.get("ready")))
            await until(lambda: "LinkUpEvent" in edge.said)
            await asyncio.to_thread(good, "revoke", deployment, "alice")
            assert await edge.wait(PATIENCE) == LinkRefused.exit_code
            assert while_it_runs in edge.said.rpartition("error: ")[2]
        finally:
            await edge.kill()
        again = await start(*command)
        try:
            assert await again.wait(PATIENCE) == LinkRefused.exit_code
            assert when_it_starts in again.said.rpartition("error: ")[2]
        finally:
            await again.kill()
