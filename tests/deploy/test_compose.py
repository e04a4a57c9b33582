"""The compose file and the image say nothing that the daemons do not know; the scripts do what they say."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge_node.api.http.auth import OPEN
from flexspec_mq.demo.children import as_child
from lab.testbed.deployment import free_port
from tests.broker.test_launcher import answers
from tests.daemons import until
from tests.deploy.files import DEPLOY, PROGRAMS, ROOT, compose, seconds, settings

SERVICES: dict[str, Any] = compose()["services"]
IMAGES = (DEPLOY / "Containerfile").read_text()


def in_force(name: str, *more: str) -> Any:
    """Settings of a service; `more` is what its entry point adds."""
    service = SERVICES[name]
    return settings([*service["command"], *more], service["environment"]).settings


def test_the_daemons_know_every_flag_and_every_variable() -> None:
    environment = SERVICES["broker"]["environment"]
    worker, edge = in_force("worker", "--config", "cloud.toml"), in_force("edge")
    for daemon in (worker, edge):
        assert daemon.link.broker.partition(":")[0] in environment["FLEXSPEC_NAMES"].split()
    assert worker.worker.version in environment["FLEXSPEC_VERSIONS"].split()
    assert edge.link.username in environment["FLEXSPEC_DEVICES"].split()
    config = SERVICES["edge"]["command"][-1]
    assert config == f"{SERVICES['broker']['command'][1]}/edge/{edge.link.username}/edge.toml"


def test_nothing_is_reached_from_elsewhere() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports == [f"127.0.0.1:8080:{in_force('edge').api.api_port}"]
    assert SERVICES["edge"]["entrypoint"][0] == "flexspec-with-api-key"


def test_probes_are_asked_where_they_answer() -> None:
    worker, edge = in_force("worker"), in_force("edge")
    assert (
        SERVICES["worker"]["healthcheck"]["test"][-1]
        == f"http://127.0.0.1:{worker.metrics.metrics_port}/readyz"
    )
    assert SERVICES["edge"]["healthcheck"]["test"][-1] == f"http://127.0.0.1:{edge.api.api_port}/readyz"
    assert "/readyz" in OPEN  # the probe has no key
    port = in_force("edge").link.broker.partition(":")[2]
    assert f"127.0.0.1:{port}" in SERVICES["broker"]["healthcheck"]["test"][-1]
    directory = SERVICES["broker"]["command"][0]
    assert f"{directory}/tls/ca.crt" in SERVICES["broker"]["healthcheck"]["test"][-1]


def test_a_worker_has_time_to_drain() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > in_force("worker").worker.drain + 5


def test_volumes_are_declared_and_covered_by_folders_of_the_user() -> None:
    used = {tuple(volume.split(":")[:2]) for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name, _ in used} == set(compose()["volumes"])
    made = IMAGES[IMAGES.index("useradd") : IMAGES.index("ENV PATH")].split()
    assert {folder for _, folder in used} <= set(made)


def test_each_service_has_an_image_that_holds_what_it_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", IMAGES, re.DOTALL | re.MULTILINE))
    for name, service in SERVICES.items():
        assert service["build"] == {"context": "..", "dockerfile": "deploy/Containerfile", "target": name}
        assert stages[name].rstrip().endswith("USER flexspec")
        (extras,) = re.findall(r'"/src\[([\w,-]+)\]"', stages[f"build-{name}"])
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
        assert ("torch" in stages[f"build-{name}"]) == (name == "worker")
    assert "[servers," in stages["build-worker-servers"]
    assert "torch" not in stages["build-worker-servers"]
    (torch,) = [line for line in project["optional-dependencies"]["models"] if line.startswith("torch")]
    assert f'"{torch}"' in stages["build-worker"]


def test_an_image_is_made_of_what_the_build_may_see() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    let_in = (ROOT / ".dockerignore").read_text().split()
    for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"!{name}" in let_in
    for name in (
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "deploy/compose",
        "deploy/systemd",
    ):
        assert f"!{name}" in let_in
        assert (ROOT / name).exists()
    scripts = {service["entrypoint"][0] for service in SERVICES.values()}
    assert scripts == {path.name for path in (DEPLOY / "compose").iterdir()}


def test_every_variable_that_is_named_anywhere_is_one() -> None:
    known = {program.variable(key) for program, _ in PROGRAMS.values() for key in program.entries}
    texts = [path for path in DEPLOY.rglob("*") if path.is_file()] + [ROOT / "docs" / "deploy.md"]
    for path in texts:
        named = re.findall(r"FLEXSPEC_(?:BROKER|CLOUD|EDGE)_[A-Z_]+", path.read_text())
        assert set(named) <= known, path


# The scripts


def script(name: str, *arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
    command = [DEPLOY / "compose" / name, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_child(signal.SIGKILL),  # noqa: PLW1509  one prctl, no lock, no allocation
        **more,
    )


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock, of util-linux, is not installed")
def test_each_worker_takes_a_user_that_is_free(tmp_path: Path) -> None:
    for name in ("w1", "w2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "password").write_text("x\n")
    # Stays until its input ends, like a daemon, and shows what it was told.
    stays = ("sh", "-c", 'echo "$@"; read line', "sh")
    running = [script("flexspec-as-free-worker", tmp_path, *stays, stdin=subprocess.PIPE) for _ in range(2)]
    try:
        told = [process.stdout.readline().split() for process in running]  # type: ignore[union-attr]
        assert {tuple(words) for words in told} == {
            ("--config", f"{tmp_path}/{name}/cloud.toml") for name in ("w1", "w2")
        }
        third = script("flexspec-as-free-worker", tmp_path, *stays)
        assert "all users" in third.communicate(timeout=60)[1]
        assert third.returncode == 2
        running[0].kill()
        running[0].communicate(timeout=60)
        again = script("flexspec-as-free-worker", tmp_path, *stays, stdin=subprocess.DEVNULL)
        assert again.communicate(timeout=60)[0].split() == told[0]
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=60)


def test_the_api_key_is_drawn_once(tmp_path: Path) -> None:
    file = tmp_path / "api-key"
    keys = set()
    for _ in range(2):
        process = script("flexspec-with-api-key", file, "echo", "serve")
        assert process.communicate(timeout=60)[0] == f"serve --api-key-file {file}\n"
        keys.add(file.read_text())
    (key,) = keys
    assert len(key.strip()) == 48
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_broker_is_made_once_and_lets_in_who_is_named(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "flexspec-broker").write_text(f'#!/bin/sh\nexec {sys.executable} -m broker "$@"\n')
    (programs / "flexspec-broker").chmod(0o755)
    port = free_port()
    directory, folder = tmp_path / "d", tmp_path / "run"
    (folder / "edge" / "gone").mkdir(parents=True)
    environment = {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin", "PYTHONPATH": str(ROOT),
        **SERVICES["broker"]["environment"], "FLEXSPEC_WORKERS": "w1 w2", "FLEXSPEC_BROKER_PORT": str(port),
    }  # fmt: skip
    inodes = set()
    for _ in range(2):
        process = script("flexspec-broker-deployed", directory, folder, env=environment)
        try:
            asyncio.run(until(lambda: answers(port)))
        finally:
            process.terminate()
            process.communicate(timeout=60)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert {name.rpartition("/")[0] for name in files} == {"edge/edge", "worker/w1", "worker/w2"}
        inodes.add(files["worker/w1/password"].stat().st_ino)
    assert len(inodes) == 1  # a worker may hold a lock on it
    for secret in ("edge/edge/password", "edge/edge/keys.json", "worker/w1/keys.json"):
        assert files[secret].stat().st_mode & 0o777 == 0o600
