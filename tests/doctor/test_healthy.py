"""A setup with nothing wrong: TLS, users, access rules, the real model, and the doctor without a complaint."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from broker.deployment.certificates import make_certificates
from broker.files import write_private
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq.share_groups import new_groups
from lab.testbed.deployment import free_port
from tests.doctor.setups import EDGE, USERS, WORKER, doctor
from tests.integration.processes import ended, start

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

ALL = ("packages", "cache", "broker", "login", "model", "name", "access", "exposure", "tokenizer", "clock")
EVERYTHING = {"edge": {*ALL, "api", "worker", "text"}, "cloud": {*ALL, "metrics"}}


async def examined(part: str, *flags: str) -> dict[str, str]:
    """All that the doctor of one daemon says; nothing of it may be a complaint."""
    told = await doctor(part, "--json", *flags)
    findings: list[dict[str, Any]] = told.document["findings"]
    complaints = [row for row in findings if row["state"] != "ok" or row["advice"] or row["fault"]]
    # The only worker there is is the one on this machine: no other clock to compare with.
    expected = [("clock", "skipped")] if part == "cloud" else []
    assert [(row["name"], row["state"]) for row in complaints] == expected
    assert told.code == 0
    assert {row["name"] for row in findings} == EVERYTHING[part]
    return {row["name"]: row["detail"] for row in findings}


async def test_zero_complaints(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls", ["localhost", "127.0.0.1"])
    with PrivateBroker(BrokerSettings(port=0, tls=tls, users=USERS)) as broker:
        files, flags = {}, {}
        for part, user in (("edge", USERS[0]), ("cloud", USERS[1])):
            secret = tmp_path / f"{part}.password"
            write_private(secret, f"secret-of-{user.name}\n")
            given: dict[str, str | int] = {
                "broker": f"localhost:{broker.port}",
                "tls_ca": str(tls.ca),
                "username": user.name,
                "password_file": str(secret),
            }
            given |= {"api_port": free_port()} if part == "edge" else {"metrics_port": free_port()}
            if part == "cloud":
                given["share_groups"] = str(tmp_path / "share-groups")
                write_private(tmp_path / "share-groups", new_groups().text())
            files[part] = tmp_path / f"{part}.toml"
            files[part].write_text(
                "".join(f"{key} = {value!r}\n" for key, value in given.items()).replace('"', "'")
            )
            flags[part] = ("--config", str(files[part]))
        worker = await start("cloud_worker", *flags["cloud"], "--ready-json")
        edge = None
        try:
            await worker.event(lambda line: bool(line.get("ready")))
            # Before the edge node runs: a session of the doctor's own.
            seen = await examined("edge", *flags["edge"])
            assert "over TLS" in seen["broker"]
            assert seen["login"] == f"as {EDGE}"
            assert f"4 tokens by worker {WORKER}, first after" in seen["text"]
            assert seen["text"].endswith("verification exact")
            assert "already running" in (await examined("cloud", *flags["cloud"]))["metrics"]
            # Beside it: through its API. It must not be disturbed.
            edge = await start("edge_node", "serve", *flags["edge"], "--ready-json")
            await edge.event(lambda line: bool(line.get("ready")))
            seen = await examined("edge", *flags["edge"])
            assert "already running" in seen["api"]
            assert "tokens in" in seen["text"]
            assert "from the running edge node" in seen["text"]
            for process in (edge, worker):
                assert process.runs
                process.send_signal(signal.SIGTERM)
            assert (await ended(edge))[0] == 0
            assert (await ended(worker))[0] == 0
        finally:
            for process in filter(None, (edge, worker)):
                await process.kill()
