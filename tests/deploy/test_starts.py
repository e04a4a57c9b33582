"""Starts and ends at a deployment, of which a service manager is told: healthy ones, and refused logins."""

import asyncio
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from flexspec_mq.daemon import systemd as notify
from flexspec_mq.errors import LinkRefused
from lab.testbed.deployment import free_port
from tests.broker.deployments import good, made, running
from tests.broker.test_watching import Labels, figures, series
from tests.daemons import until
from tests.deploy.files import compose
from tests.doctor.setups import doctor
from tests.integration.processes import PATIENCE, ended, start

LOGIN = series("refused_total", user="unknown", kind="login")


def refused(counts: dict[tuple[str, Labels], float]) -> dict[tuple[str, Labels], float]:
    return {key: count for key, count in counts.items() if key[0] == LOGIN[0]}


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket that systemd would listen on; the environment names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@flexspec-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listening.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


async def until_healthy(service: str, port: int) -> None:
    """Wait until a daemon at a port answers well where the compose file asks."""
    url: str = compose()["services"][service]["healthcheck"]["test"][-1]
    probe = f"http://127.0.0.1:{port}{urlsplit(url).path}"
    async with asyncio.timeout(PATIENCE), httpx2.AsyncClient(timeout=PATIENCE) as http:
        while (await http.get(probe)).status_code != 200:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)


def lines(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_without_a_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready("serves")


def test_both_messages(manager: socket.socket) -> None:
    assert notify.ready("serves")
    assert lines(manager) == ["READY=1", "STATUS=serves"]
    assert notify.stopping("draining")
    assert lines(manager) == ["STOPPING=1", "STATUS=draining"]


def test_a_manager_that_is_gone_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify.ready("serves")
    assert "could not be told" in caplog.text


SHARED = [
    "packages", "cache", "broker", "login", "model", "name", "access", "exposure", "keys", "tokenizer", "clock",
]  # fmt: skip
CHECKS = {"edge": {*SHARED, "api", "worker", "text"}, "cloud": {*SHARED, "metrics"}}


async def examined(part: str, *flags: str) -> dict[str, str]:
    """All that the doctor of one daemon says; nothing of it may be a complaint."""
    told = await doctor(part, "--json", *flags)
    rows = told.document["findings"]
    complaints = [row for row in rows if row["state"] != "ok" or row["advice"] or row["fault"]]
    # The only worker there is is the one on this machine: no other clock to compare with.
    assert [(row["name"], row["state"]) for row in complaints] == [("clock", "skipped")] * (part == "cloud")
    assert told.code == 0
    assert {row["name"] for row in rows} == CHECKS[part]
    return {row["name"]: row["detail"] for row in rows}


@pytest.mark.parametrize("manager", ["path"], indirect=True)
async def test_a_healthy_start_is_no_intruder_and_a_wrong_password_is_told_before_a_model_is_looked_for(
    tmp_path: Path, tiny: Path, manager: socket.socket
) -> None:
    directory = made(tmp_path / "d", "--keys")
    good("add-worker", directory, "w1", "--version", "tiny")
    good("add-device", directory, "alice")
    port, api, figures_of_worker = free_port(), free_port(), free_port()
    with (directory / "broker.toml").open("a") as settings:
        settings.write(f"metrics_port = {port}\n")
    worker, edge = (directory / "hand-out" / name for name in ("worker/w1", "edge/alice"))
    of_worker = ("--config", str(worker / "cloud.toml"), "--target", str(tiny))
    watched = (*of_worker, "--metrics-port", str(figures_of_worker))
    of_edge = (
        *("--config", str(edge / "edge.toml"), "--draft", "none"),
        *("--api-port", str(api)),
    )
    with running(directory, tmp_path / "log", "--log-level", "info"):
        assert lines(manager) == ["READY=1"]  # of Mosquitto
        assert lines(manager)[1].startswith("STATUS=listens on ")
        serving = await start("cloud_worker", *watched, "--ready-json")
        node = None
        try:
            await serving.event(lambda line: bool(line.get("ready")))
            ready = lines(manager)
            assert ready[0] == "READY=1"
            assert ready[1].startswith("STATUS=worker w1 serves version tiny at ")
            await until_healthy("worker", figures_of_worker)
            # Before the edge node runs: a session of the doctor's own.
            alone = await examined("edge", *of_edge)
            assert "over TLS" in alone["broker"]
            assert alone["login"] == "as alice"
            assert "tokens by worker w1, first after" in alone["text"]
            assert alone["text"].endswith("verification exact")
            node = await start("edge_node", "serve", *of_edge, "--ready-json")
            await node.event(lambda line: bool(line.get("ready")))
            ready = lines(manager)
            assert ready[0] == "READY=1"
            assert ready[1].startswith(f"STATUS=edge alice serves http://127.0.0.1:{api}/v1;")
            await until_healthy("edge", api)
            # Mosquitto's log is read on its own way, which may be behind its answers.
            both = (series("connections", user="w1"), series("connections", user="alice"))
            await until(lambda: [figures(port).get(user) for user in both] == [1, 1])
            # A doctor tries what it should not be able to do, as the user that it is; that is no intrusion.
            assert refused(figures(port)) == {}
            # Beside the edge node: through its API. Nobody is disturbed.
            beside, of_the_worker = await asyncio.gather(
                examined("edge", *of_edge), examined("cloud", *watched)
            )
            assert "already running" in beside["api"]
            assert f"it is the one that serves http://127.0.0.1:{api} here" in beside["name"]
            assert "from the running edge node" in beside["text"]
            assert "already running" in of_the_worker["metrics"]
            for process in (node, serving):
                assert process.runs
                process.send_signal(signal.SIGTERM)
                assert lines(manager)[0] == "STOPPING=1"
                assert (await ended(process))[0] == 0
        finally:
            for process in filter(None, (serving, node)):
                await process.kill()
        (worker / "password").write_text("not the password\n")
        code, said = await ended(await start("cloud_worker", *of_worker[:2], "--target", "/no/such/model"))
        assert code == 4, said
        assert "refuses user 'w1'" in said
        await until(lambda: refused(figures(port)) == {LOGIN: 1})
    said = (tmp_path / "log").read_text()
    assert "SSL" not in said
    assert '"level": "error"' not in said


@pytest.mark.parametrize(
    ("flags", "while_it_runs", "when_it_starts"),
    [
        (("--keys",), "this device was revoked", "this client was revoked"),
        ((), "this client was revoked", "this client was revoked"),
        (("--client-certificates",), "client.crt was revoked", "client.crt was revoked"),
    ],
    ids=["keys", "passwords", "certificates"],
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
