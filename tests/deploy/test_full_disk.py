"""A full disk: who is revoked gets in no more, and daemons that cannot write what they say serve all the same."""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from broker.files import rewrite_private
from broker.launcher import PrivateBroker
from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from tests.broker.deployments import as_client, good, made, run, running
from tests.integration.processes import PATIENCE

FULL = Path("/dev/full")


def fill(disk: Path) -> Path:
    """Leave it not a byte of room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            continue
    with pytest.raises(OSError, match="No space left"):
        (disk / "one byte").write_bytes(b"x")
    (disk / "one byte").unlink()
    return filler


async def refused(settings: LinkSettings) -> bool:
    """Whether the broker says no; of a certificate it does so within TLS, after which links try again."""
    try:
        async with mqtt_link(settings) as link:
            await link.wait_up(5)
    except LinkError:
        return True
    return False


@pytest.mark.parametrize(
    ("flags", "runs"), [(("--keys",), True), (("--client-certificates",), False)], ids=["running", "stopped"]
)
async def test_who_is_revoked_on_a_full_disk_gets_in_no_more(
    tmp_path: Path, disk: Path, flags: tuple[str, ...], runs: bool
) -> None:
    directory, log = made(disk / "d", *flags), tmp_path / "log"
    good("add-device", directory, "alice", "bob")
    bob = as_client(directory / "hand-out" / "edge" / "bob")
    stolen = shutil.copytree(directory, tmp_path / "stolen")
    alice = as_client(stolen / "hand-out" / "edge" / "alice")
    with contextlib.ExitStack() as stack:
        if runs:
            stack.enter_context(running(directory, log))
            assert not await refused(alice)
        filler = fill(disk)
        done = await asyncio.to_thread(run, "revoke", directory, "alice")
        assert done.returncode == 0, done.stderr
        assert ("is not connected any more" in done.stdout) == runs
        if runs:
            assert await refused(alice)
            assert not await refused(bob)
    filler.unlink()
    with running(directory, log):
        assert await refused(alice)
        assert not await refused(bob)
    good("add-device", directory, "carol")
    assert {"bob", "carol"} == set(json.loads((directory / "identities.json").read_text())["clients"])


def test_what_cannot_be_revoked_is_said(disk: Path) -> None:
    directory = made(disk / "d", "--keys")
    good("add-device", directory, "alice")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = run("revoke", directory, "alice")
    assert done.returncode == 4
    assert "alice NOT revoked, and still gets in" in done.stderr
    assert "end the broker that runs: that keeps everybody out" in done.stderr


def test_what_has_no_room_is_left_as_it_was(disk: Path) -> None:
    file, other = disk / "file", disk / "other"
    rewrite_private(file, "a" * 5000)
    rewrite_private(other, "b" * 4095 + "\n")
    fill(disk)
    rewrite_private(file, "c" * 3000)
    assert file.read_text() == "c" * 3000 + "\n" * 2000
    rewrite_private(file, "d" * 8000)
    assert file.read_text() == "d" * 8000 + "\n"
    with pytest.raises(OSError, match="No space left"):
        rewrite_private(other, "e" * 4096 + "\n")
    assert other.read_text() == "b" * 4095 + "\n"
    with pytest.raises(OSError, match="No space left"):
        rewrite_private(disk / "new", "f")
    assert sorted(path.name for path in disk.iterdir()) == ["file", "filler", "other"]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
async def test_daemons_that_cannot_write_what_they_say_start_serve_and_end_well(
    mosquitto: PrivateBroker, tiny: Path
) -> None:
    at = ("--broker", f"{mosquitto.host}:{mosquitto.port}")
    port, watched, broker = (free_port() for _ in range(3))
    own = ("--worker", "full", "--version", "full", "--metrics-port", str(watched))
    draft = ("--draft", "none", "--tokenizer", str(tiny), "--version", "full")
    commands = (
        ("cloud_worker", *at, *own, "--target", str(tiny)),
        ("edge_node", "serve", *at, *draft, "--api-port", str(port)),
        ("broker", "run", "--port", str(broker)),
    )
    with FULL.open("wb") as full, contextlib.ExitStack() as stack:  # noqa: ASYNC230
        daemons = [
            stack.enter_context(subprocess.Popen([sys.executable, "-m", *words], stdout=full, stderr=full))  # noqa: ASYNC220
            for words in commands
        ]
        try:
            async with httpx2.AsyncClient(timeout=PATIENCE) as http:

                async def answers() -> bool:
                    question = {"model": "full", "prompt": "a", "max_tokens": 3}
                    with contextlib.suppress(httpx2.ConnectError):
                        said = await http.post(f"http://127.0.0.1:{port}/v1/completions", json=question)
                        return said.status_code == 200
                    return False

                async with asyncio.timeout(PATIENCE):
                    while not await answers():
                        assert [daemon.poll() for daemon in daemons] == [None] * 3
                        await asyncio.sleep(0.2)
            assert not await refused(LinkSettings(port=broker, client_id="f"))
        finally:
            for daemon in daemons:
                daemon.send_signal(signal.SIGTERM)
            codes = [await asyncio.to_thread(daemon.wait, PATIENCE) for daemon in daemons]
        assert codes == [0, 0, 0]


def test_lines_that_could_not_be_written_are_counted(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk that is full for a while."""
    program = """
import logging, resource
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main

def main(_argv):
    logs.configure(logs.LogOptions(log_level="info", log_format="json"))
    for number, most in enumerate((-1, 0, 0, -1)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1))
        logging.getLogger("x").info("number %d", number)

run_main(main, [])
"""
    lines = tmp_path / "lines"
    with lines.open("ab") as file:
        subprocess.run([sys.executable, "-c", program], stderr=file, check=True)
    said = [json.loads(line)["message"] for line in lines.read_text().splitlines()]
    assert said == ["number 0", "number 3", "2 lines before this could not be written"]
