"""What the daemons tell the service manager that started them."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.daemon import systemd as notify
from lab.testbed.deployment import free_port
from tests.deploy.files import compose
from tests.integration.processes import PATIENCE, ended, start, start_worker


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


def probed(service: str) -> str:
    """The path that the compose file asks whether a service is healthy."""
    url: str = compose()["services"][service]["healthcheck"]["test"][-1]
    return urlsplit(url).path


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


@pytest.mark.parametrize("manager", ["path"], indirect=True)
async def test_a_worker_is_ready_when_it_serves(
    manager: socket.socket, mosquitto: PrivateBroker, tiny: Path
) -> None:
    port = str(free_port())
    more = ("--target", str(tiny), "--version", "notify", "--metrics-port", port)
    worker = await start_worker(mosquitto, "notify-w", *more)
    try:
        await worker.event(lambda line: bool(line.get("ready")))
        where = f"{mosquitto.host}:{mosquitto.port}"
        assert lines(manager) == ["READY=1", f"STATUS=worker notify-w serves version notify at {where}"]
        async with httpx2.AsyncClient(timeout=PATIENCE) as http:
            assert (await http.get(f"http://127.0.0.1:{port}{probed('worker')}")).status_code == 200
        worker.send_signal(signal.SIGTERM)
        assert lines(manager) == ["STOPPING=1", "STATUS=draining"]
        assert (await ended(worker))[0] == 0
    finally:
        await worker.kill()


@pytest.mark.parametrize("manager", ["abstract"], indirect=True)
async def test_an_edge_node_is_ready_when_its_api_answers(
    manager: socket.socket, mosquitto: PrivateBroker, tiny: Path
) -> None:
    edge = await start(
        *("edge_node", "serve", "--broker", f"{mosquitto.host}:{mosquitto.port}", "--edge", "notify-e"),
        *("--draft", "none", "--tokenizer", str(tiny), "--api-port", "0", "--ready-json"),
    )
    try:
        port = (await edge.event(lambda line: bool(line.get("ready"))))["port"]
        said = lines(manager)
        assert said[0] == "READY=1"
        assert said[1].startswith(f"STATUS=edge notify-e serves http://127.0.0.1:{port}/v1;")
        async with httpx2.AsyncClient(timeout=PATIENCE) as http:
            answer = await http.get(f"http://127.0.0.1:{port}{probed('edge')}")
        assert (answer.status_code, list(answer.json())) == (503, ["status", "reason"])
        edge.send_signal(signal.SIGTERM)
        assert lines(manager)[0] == "STOPPING=1"
        assert (await ended(edge))[0] == 0
    finally:
        await edge.kill()
