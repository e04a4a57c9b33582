"""Planted faults on this machine: the model is missing, a port is taken, a disk is full, packages are too old."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.__main__ import main as cloud
from edge_node.cli.main import main as edge
from flexspec_mq.doctor import machine
from flexspec_mq.doctor.checks import Finding, Report, State
from lab.testbed.deployment import free_port
from tests.doctor.setups import Told, answering, at, look, look_at_worker, named, the_fault, worker

Doctor = Callable[..., Told]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """``flexspec-edge doctor …`` or the worker's; ``flexspec doctor`` itself: tests/deploy/test_starts.py."""

    def doctor(*arguments: str, main: Callable[[list[str]], int] = edge) -> Told:
        code = main(["doctor", *arguments])
        return Told(code, *capsys.readouterr())

    return doctor


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


# The model


NO_FOLDER = "there is no folder /no/such/folder", "name a checkpoint folder"


@pytest.mark.parametrize(
    ("main", "flag", "where", "words", "advice"),
    [
        (edge, "--draft", "/no/such/folder", *NO_FOLDER),
        (cloud, "--target", "", "it has no config.json", "name the folder that holds config.json"),
    ],
    ids=["edge", "cloud"],
)
def test_model_missing(
    main: Any, flag: str, where: str, words: str, advice: str, doctor: Doctor, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    nowhere = ("--broker", f"127.0.0.1:{free_port()}")
    told = doctor("--json", flag, where or str(tmp_path), *nowhere, main=main)
    assert told.failures == ["broker down", "model missing"]
    (model,) = (row for row in told.document["findings"] if row["name"] == "model")
    assert words in model["detail"]
    assert advice in model["advice"]
    assert told.code == 4  # the first fault's


def test_model_missing_as_the_default_is_not_prepared(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for main in (edge, cloud):
        told = doctor("--json", "--broker", f"127.0.0.1:{free_port()}", main=main)
        assert told.failures == ["broker down", "model missing"]
        model = next(row for row in told.document["findings"] if row["fault"] == "model missing")
        assert "not prepared yet" in model["detail"]
        assert "flexspec model prepare" in model["advice"]
    assert names_in(tmp_path) == []  # a doctor prepares nothing


# Ports


async def test_port_taken(own_mosquitto: PrivateBroker) -> None:
    with answering(b"") as port:
        async with worker(own_mosquitto):
            findings = await look(at(own_mosquitto), "--api-port", str(port))
        figures = await look_at_worker(at(own_mosquitto), "--metrics-port", str(port))
    the_fault(findings, "port taken", f"127.0.0.1:{port}", advice=["--api-port"])
    the_fault(figures, "port taken", f"127.0.0.1:{port}", advice=["--metrics-port"])


async def test_an_address_that_is_not_ours(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hush")
    beyond = ("--api-host", "192.0.2.1", "--api-insecure-anywhere", "--api-key-file", str(key))
    findings = await look(at(mosquitto), *beyond, "--api-port", "8080")
    assert named(findings, "api").fault == "port taken"
    assert "192.0.2.1:8080" in named(findings, "api").detail


# Disks


async def test_disk_full(own_mosquitto: PrivateBroker, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk / "filler").write_bytes(bytes(3_600_000))
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    async with worker(own_mosquitto):
        findings = await look(at(own_mosquitto))
    full = the_fault(findings, "disk full", str(disk), "No space left", advice=["XDG_CACHE_HOME"])
    assert full.name == "cache"
    assert names_in(disk) == ["filler"]  # the probe is gone


def test_a_cache_without_room_for_the_default_model_or_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finding() -> Finding:
        report = Report("cache")
        machine.check_cache(report)
        (finding,) = report.findings
        return finding

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=5e8))
    little = finding()
    assert (little.state, little.fault, little.exit_code) == (State.WARNING, "disk nearly full", 0)
    assert "only 500 MB left" in little.detail
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert "is a file" in the_fault([finding()], "disk full").detail


# Packages


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "msgpack>=99,<100",
        "no-such-package>=1,<2; extra == 'models'",
        "no-such-server>=1,<2; extra == 'serve'",
        "rich<1; extra == 'dev'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: lines)
    report = Report("packages")
    machine.check_packages(report, ("models",), {"serve": "nothing is served"})
    failed, warned = report.findings
    assert failed.state is State.FAILED
    assert "asked for is >=99,<100" in failed.detail
    assert "no-such-package is not installed" in failed.detail
    assert "pip install '.[models]'" in failed.advice
    assert warned.state is State.WARNING
    assert warned.detail == "no-such-server is not installed: nothing is served"
    assert "rich" not in failed.detail + warned.detail


def test_our_own_metadata_is_understood() -> None:
    asked = machine.requirements()
    assert {"aiomqtt", "torch", "starlette"} <= {requirement.name for requirement in asked}
    assert all(requirement.specifier for requirement in asked)
    own = {
        extra for extra in ("", "models", "edge", "serve", "heads") if not machine.complaints(asked, extra)
    }
    assert own == {"", "models", "edge", "serve", "heads"}


# The command


def test_exit_codes_are_those_of_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \| (\d) \|", text.partition("## Faults")[2], re.MULTILINE)
    codes = {fault: int(code) for names, code in rows for fault in re.findall("`(.+?)`", names)}
    assert len(codes) > 15
    for fault, code in codes.items():
        state = State.FAILED if code else State.WARNING
        assert Finding("any", state, "", fault=fault).exit_code == code, fault


def test_the_list_for_people(doctor: Doctor) -> None:
    told = doctor("--broker", f"127.0.0.1:{free_port()}", "--draft", "/no/such/folder", "--api-port", "0")
    assert told.code == 4
    assert "✗  model        model missing: the draft /no/such/folder" in told.out
    assert "→ name a checkpoint folder" in told.out
    assert "✗  broker       broker down: nothing listens" in told.out
    assert "✓  api" in told.out
    assert "–  not checked  login, name, access, exposure, worker" in told.out
    assert "2 failed, 8 not checked" in told.out
    assert "Traceback" not in told.err


def test_settings_that_cannot_be_used_are_a_finding(doctor: Doctor, tmp_path: Path) -> None:
    bad = tmp_path / "edge.toml"
    bad.write_text("draft_lenght = 4\n")
    told = doctor("--json", "--config", str(bad))
    assert told.code == 2
    (finding,) = told.document["findings"]
    assert finding["fault"] == "settings"
    assert "draft_lenght" in finding["detail"]
    assert "draft_length" in finding["advice"]
    told = doctor("--json", "--password-file", str(tmp_path / "none"), "--username", "truck")
    assert told.failures == ["settings"]


def test_secrets_are_never_told(doctor: Doctor, mosquitto: PrivateBroker, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'broker = "{at(mosquitto)}"\nusername = "truck"\npassword = "hunter2hunter2"\n'
        'api_key = "sk-hunter3"\ndraft = "/no/such/folder"\nversion = "nobody"\napi_port = 0\n'
    )
    told = doctor("--json", "--config", str(config), "--within", "5")
    assert told.failures[0] == "model missing"
    assert "hunter" not in told.out + told.err
    assert json.loads(told.out)["ok"] is False


def test_the_whole_is_bounded(doctor: Doctor) -> None:
    """A listener that takes connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port = silent.getsockname()[1]
        told = doctor(
            *("--json", "--within", "2", "--draft", "/no/such/folder", "--broker", f"127.0.0.1:{port}"),
            *("--api-port", "0"),
        )
    assert "time over" in told.failures
    assert all(row["state"] != "ok" for row in told.document["findings"] if row["name"] == "broker")
    with pytest.raises(SystemExit, match="2"):
        doctor("--within", "nan")
