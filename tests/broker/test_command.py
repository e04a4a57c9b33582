"""``flexspec-broker run`` and ``check`` as their users run them; the doctor's tests plant what else can be wrong."""

import json
import os
import signal
from pathlib import Path

import pytest

from broker.config import config_text
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq.doctor.broker import broker_probes
from flexspec_mq.doctor.checks import Finding, State, run_checks
from flexspec_mq.transport.base import LinkSettings
from tests.broker.deployments import good, made, run, run_apart, running
from tests.broker.test_launcher import answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_says_when_it_is_ready_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    (temporary := tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with running(None, tmp_path / "log") as (process, ready):
        assert answers(ready["port"])
        process.send_signal(number)
        assert process.wait(10) == 0
        assert not answers(ready["port"])
    assert not list(temporary.iterdir())


def test_run_tells_of_mosquittos_own_end(tmp_path: Path) -> None:
    with running(None, tmp_path / "log") as (process, ready):
        os.kill(ready["pid"], signal.SIGKILL)
        assert process.wait(10) == 4


def test_mosquittos_notices_are_heard_only_when_asked_for(tmp_path: Path) -> None:
    def lines(*flags: str) -> list[str]:
        """Lines that `run` writes to standard error while a client connects and disconnects."""
        log = tmp_path / "log"
        with running(None, log, *flags) as (_, ready):
            assert run("check", f"127.0.0.1:{ready['port']}").returncode == 0
        return log.read_text().splitlines()

    as_root = "Warning: Mosquitto should not be run as root/administrator."
    quiet = [json.loads(line) for line in lines()]
    assert {(one["level"], one["message"]) for one in quiet} <= {("warning", as_root)}
    said = [json.loads(line) for line in lines("--verbose")]
    assert {one["logger"] for one in said} == {"mosquitto"}
    assert any(one["message"].startswith("New client connected") and one["level"] == "info" for one in said)
    people = lines("--log-format", "human", "--log-level", "info")
    assert any("[info     ] New client connected from" in line for line in people)


def test_a_mosquitto_that_cannot_start_has_the_last_word(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    for name in ("ca.crt", "server.crt", "server.key"):
        (directory / "tls" / name).write_text("no certificate\n")
    done = run_apart("run", directory)
    assert done.returncode == 4
    assert "error: mosquitto " in done.stderr  # it may have answered before it read its files
    assert "hint: it said: " in done.stderr
    assert "ca.crt" in done.stderr.partition("hint: it said: ")[2]
    levels = {json.loads(line)["level"] for line in done.stderr.splitlines() if line.startswith("{")}
    assert "error" in levels


def test_check_speaks_to_people_and_programs(mosquitto: PrivateBroker) -> None:
    address = f"127.0.0.1:{mosquitto.port}"
    people = run("check", address)
    assert people.returncode == 0
    assert "✓  shared subscriptions" in people.stdout
    programs = run("check", "--json", address)
    report = json.loads(programs.stdout)
    assert report["ok"] is True
    found = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert found.pop("round trip") in {"ok", "warning"}, "a busy machine takes longer"
    assert found == dict.fromkeys(
        ("broker", "login", "retained messages", "shared subscriptions", "reason codes"), "ok"
    ) | {"workers": "skipped"}
    nobody = run("check", "127.0.0.1:1")
    assert nobody.returncode == 1
    assert "✗  broker" in nobody.stdout
    assert run("check", "nonsense:").returncode == 2


@pytest.mark.parametrize("role", ["edge", "worker"])
def test_check_of_a_secured_broker_passes_for_each_role(tmp_path: Path, role: str) -> None:
    directory = made(tmp_path / "d")
    good("add-device", directory, "edge")
    good("add-worker", directory, "worker", "--version", "base")
    folder = directory / "hand-out" / role / role
    address = json.loads((directory / "identities.json").read_text())["address"]
    login = ("--username", role, "--password-file", str(folder / "password"), "--ca", str(folder / "ca.crt"))
    with running(directory, tmp_path / "log"):
        done = run("check", address, *login)
        by_url = run("check", f"mqtts://{address}", *login)
    assert done.returncode == 0, done.stdout
    assert by_url.returncode == 0, by_url.stdout


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("check", "127.0.0.1:\u00b2"), "is not host:port", 2),
        (("check", "ws://127.0.0.1:1"), "no address of a broker of MQTT over TCP", 2),
        (("check", "127.0.0.1:1", "--password-file", "/does/not/exist"), "/does/not/exist", 2),
        (("check", "127.0.0.1:1", "--ca", "/does/not/exist"), "/does/not/exist", 4),
        (("init", "/proc/no-folder", "--name", "a"), "/proc/no-folder", 4),
        (("check", "a..b:1883"), "✗  broker", 1),
        (("run", "--persistence"), "needs a folder", 2),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], said: str, code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


async def checked(
    at: PrivateBroker, topic: str = "f1/check", username: str | None = None, password: str | None = None
) -> dict[str, Finding]:
    """Findings by name, without those that were skipped."""
    settings = LinkSettings(
        host=at.host,
        port=at.port,
        client_id="check",
        username=username,
        password=password,
        publish_timeout=5.0,
    )
    findings = await run_checks("broker", broker_probes(settings, topic))
    return {finding.name: finding for finding in findings if finding.state is not State.SKIPPED}


async def test_nagle_at_the_broker_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_nagle(settings: BrokerSettings, directory: Path) -> str:
        return config_text(settings, directory).replace("set_tcp_nodelay true", "set_tcp_nodelay false")

    monkeypatch.setattr("broker.config.config_text", with_nagle)
    with PrivateBroker() as slow:
        finding = (await checked(slow))["round trip"]
    assert finding.state is State.WARNING  # it works all the same
    assert "set_tcp_nodelay" in finding.advice


async def test_login_and_access_rules() -> None:
    users = (User("alice", Role.EDGE, hashed("right")),)
    with PrivateBroker(BrokerSettings(port=0, users=users)) as closed:
        refused = await checked(closed, "f1/check", "alice", "wrong")
        limited = await checked(closed, "f1/check", "alice", "right")
        own = await checked(closed, "f1/r/alice", "alice", "right")
    assert list(refused)[-1] == "login"
    assert refused["login"].state is State.FAILED
    assert limited["login"].state is own["login"].state is own["retained messages"].state is State.OK
    assert limited["retained messages"].state is State.FAILED
    assert "--topic" in limited["retained messages"].advice
