"""Planted faults on this machine: the model is missing, a port is taken, a disk is full, packages are too old."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from cloud_worker.__main__ import main as cloud
from edge_node.cli.main import main as edge
from flexspec_mq.doctor import machine
from flexspec_mq.doctor.checks import Fault, Warned
from lab.testbed.deployment import free_port
from tests.doctor.setups import Told, answering, at

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


async def test_port_taken_or_at_an_address_that_is_not_ours() -> None:
    with answering(b"") as port:
        with pytest.raises(
            Fault, match=f"127.0.0.1:{port}, where figures is to be served, is taken"
        ) as taken:
            await machine.check_port("127.0.0.1", port, "figures", "--metrics-port", lambda: "")
        ours = await machine.check_port("127.0.0.1", port, "figures", "--metrics-port", lambda: "it is ours")
    assert (taken.value.fault, ours) == ("port taken", "already running: it is ours")
    assert "--metrics-port N" in taken.value.hint
    with pytest.raises(Fault, match=r"192\.0\.2\.1:8080") as elsewhere:
        await machine.check_port("192.0.2.1", 8080, "the API", "--api-port", lambda: "it is ours")
    assert elsewhere.value.fault == "port taken"


# Disks


def test_disk_full(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk / "filler").write_bytes(bytes(3_600_000))
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    with pytest.raises(Fault, match=f"{disk} takes no further megabyte: No space left") as full:
        machine.check_cache()
    assert full.value.fault == "disk full"
    assert "XDG_CACHE_HOME" in full.value.hint
    assert names_in(disk) == ["filler"]  # the probe is gone


def test_a_cache_without_room_for_the_default_model_or_that_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=5e8))
    with pytest.raises(Warned, match="only 500 MB left") as little:
        machine.check_cache()
    assert little.value.fault == "disk nearly full"
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(Fault, match="is a file") as full:
        machine.check_cache()
    assert full.value.fault == "disk full"


# Packages


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "msgpack>=99,<100",
        "no-such-package>=1,<2; extra == 'models'",
        "no-such-server>=1,<2; extra == 'serve'",
        "rich<1; extra == 'dev'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda _name: lines)
    failed, warned = machine.check_packages(("models",), {"serve": "nothing is served"})
    assert isinstance(failed, Fault)
    assert "asked for is >=99,<100" in failed.message
    assert "no-such-package is not installed" in failed.message
    assert "pip install '.[models]'" in failed.hint
    assert isinstance(warned, Warned)
    assert warned.message == "no-such-server is not installed: nothing is served"
    assert "rich" not in failed.message + warned.message


def test_our_own_metadata_is_understood() -> None:
    asked = machine.requirements()
    assert {"aiomqtt", "torch", "starlette"} <= {requirement.name for requirement in asked}
    assert all(requirement.specifier for requirement in asked)
    own = {
        extra for extra in ("", "models", "edge", "serve", "heads") if not machine.complaints(asked, extra)
    }
    assert own == {"", "models", "edge", "serve", "heads"}


# The command


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
