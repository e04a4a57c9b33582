"""From nothing to a broker, and who gets in: by the commands, as operators run them, against a real Mosquitto."""

import asyncio
import json
import os
import shutil
import signal
import ssl
import stat
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from broker.config import DATABASE
from broker.deployment.applied_state import RUN
from flexspec_mq.errors import LinkError
from flexspec_mq.share_groups import read_groups
from flexspec_mq.transport.base import Inbound, LinkDownEvent
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from tests.broker.deployments import as_client, good, made, run, run_apart, running
from tests.daemons import until


def client(directory: Path, role: str, name: str) -> Path:
    return directory / "hand-out" / role / name


async def connected(stack: AsyncExitStack, folder: Path) -> Link:
    link = await stack.enter_async_context(mqtt_link(as_client(folder)))
    await link.wait_up(60)
    return link


async def refused(folder: Path) -> bool:
    """Over TLS 1.3 a certificate is refused after the handshake, which looks as if the broker hung up."""
    try:
        async with mqtt_link(as_client(folder, give_up_after=1.0)) as link:
            await link.wait_up(60)
    except LinkError:
        return True
    return False


async def lost(link: Link) -> None:
    async for event in link.events():
        if isinstance(event, LinkDownEvent):
            return


@pytest.mark.parametrize("flags", [(), ("--client-certificates",)], ids=["passwords", "certificates"])
async def test_from_nothing_to_a_message_and_out_again(tmp_path: Path, flags: tuple[str, ...]) -> None:
    directory = made(tmp_path / "d", *flags)
    good("add-worker", directory, "w1", "--version", "v1")
    good("add-device", directory, "alice", "bob")
    alice, bob, w1 = (
        client(directory, "edge", "alice"),
        client(directory, "edge", "bob"),
        client(directory, "worker", "w1"),
    )
    # `revoke` removes what is to be handed out, not what a device has.
    handed = client(shutil.copytree(directory, tmp_path / "copy"), "edge", "alice")
    with running(directory, tmp_path / "log"):
        async with AsyncExitStack() as stack:
            device, other, worker = [await connected(stack, one) for one in (handed, bob, w1)]
            group = read_groups(w1 / "share-groups").group_of("v1")
            await worker.subscribe(f"$share/{group}/f1/o/v1/+", 1)
            await device.publish("f1/o/v1/alice", b"open", qos=1)
            async with asyncio.timeout(60):
                async for event in worker.events():
                    if isinstance(event, Inbound):
                        assert event.payload == b"open"
                        break

            # Another device gets in at once, and nobody is disconnected.
            good("add-device", directory, "carol")
            await connected(stack, client(directory, "edge", "carol"))

            said = good("revoke", directory, "alice")
            assert "is not connected any more" in said
            async with asyncio.timeout(60):
                await lost(device)
            assert other.is_up
            assert worker.is_up
        assert not alice.exists()
    listed = json.loads(good("list", directory, "--json"))
    assert {one["name"]: one["role"] for one in listed["clients"]} == {
        "bob": "edge",
        "carol": "edge",
        "w1": "worker",
    }


async def test_a_kill_takes_nothing_that_is_older_than_the_last_writing(tmp_path: Path) -> None:
    """By `persistence`, as `init` has it: the session of an absent device, what waits for it, and what is retained."""
    directory = made(tmp_path / "d")
    good("add-device", directory, "alice")
    good("add-worker", directory, "w1")
    device = replace(as_client(client(directory, "edge", "alice")), session_expiry=300)
    with running(directory, tmp_path / "log") as (process, ready):
        async with mqtt_link(device) as link:
            await link.wait_up(60)
            await link.subscribe("f1/v/alice", 1)
        async with mqtt_link(as_client(client(directory, "worker", "w1"))) as worker:
            await worker.wait_up(60)
            await worker.publish("f1/v/alice", b"verdict", qos=1)
            await worker.publish("f1/w/w1", b"status", qos=1, retain=True)
        sent, database = time.time(), directory / RUN / DATABASE
        await until(lambda: database.exists() and database.stat().st_mtime > sent)
        for pid in (ready["pid"], process.pid):
            os.kill(pid, signal.SIGKILL)
    with running(directory, tmp_path / "log"):
        async with mqtt_link(device) as link:
            await link.subscribe("f1/w/w1", 1)
            kept = set[bytes]()
            async with asyncio.timeout(60):
                async for event in link.events():
                    if isinstance(event, Inbound):
                        kept.add(event.payload)
                    if kept == {b"status", b"verdict"}:
                        break


@pytest.mark.parametrize("flags", [(), ("--client-certificates",)], ids=["passwords", "certificates"])
async def test_old_secrets_are_of_no_use(tmp_path: Path, flags: tuple[str, ...]) -> None:
    directory = made(tmp_path / "d", *flags)
    good("add-device", directory, "alice", "bob")
    copy = shutil.copytree(directory, tmp_path / "d2")
    kept = {name: client(copy, "edge", name) for name in ("alice", "bob")}
    with running(directory, tmp_path / "log"):
        assert not await refused(kept["alice"])
        good("revoke", directory, "alice")
        good("rotate", directory, "bob")
        assert await refused(kept["alice"])
        assert await refused(kept["bob"])
        assert not await refused(client(directory, "edge", "bob"))
        again = good("add-device", directory, "alice")
        assert "was added" in again
        assert await refused(kept["alice"])
    with running(directory, tmp_path / "log"):  # nor after a restart
        assert await refused(kept["bob"])


async def test_a_certificate_alone_does_not_let_in_another(tmp_path: Path) -> None:
    """With client certificates, whoever has none does not even reach the login."""
    directory = made(tmp_path / "d", "--client-certificates")
    good("add-device", directory, "alice")
    folder = client(directory, "edge", "alice")
    for file in ("client.crt", "client.key"):
        (folder / file).unlink()
    with running(directory, tmp_path / "log"):
        assert await refused(folder)


def test_all_files_are_private(tmp_path: Path) -> None:
    directory = made(tmp_path / "d", "--client-certificates")
    good("add-worker", directory, "w1")
    good("add-device", directory, "alice")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.rglob("*"):
        if path.suffix != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    password = (client(directory, "edge", "alice") / "password").read_text().strip()
    assert len(password) >= 32
    assert password not in (directory / "identities.json").read_text()


def test_again_changes_nothing(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    good("add-worker", directory, "w1", "--version", "v1")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    port = json.loads(before[directory / "identities.json"])["address"].partition(":")[2]
    same = ("--host", "127.0.0.1", "--name", "localhost", "--port", port, "--tls")
    assert "is there already" in good("init", directory, *same)
    assert "is there already" in good("add-worker", directory, "w1", "--version", "v1")
    after = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    changed = {path.name for path in before if before[path] != after[path]}
    assert set(after) == set(before)
    assert changed <= {"identities.json"}  # its revision
    (directory / "identities.json").unlink()  # it was lost, and may come back from a backup
    good("init", directory, *same)
    assert (directory / "tls" / "ca.key").read_bytes() == before[directory / "tls" / "ca.key"]


def test_a_worker_of_more_versions_keeps_its_password(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    good("add-worker", directory, "w1", "w2", "--version", "v1")
    folder = client(directory, "worker", "w1")
    password, groups = (folder / "password").read_text(), read_groups(folder / "share-groups")
    assert groups == read_groups(client(directory, "worker", "w2") / "share-groups")
    good("add-worker", directory, "w1", "--version", "v1", "--version", "v2")
    more = read_groups(folder / "share-groups")
    assert (folder / "password").read_text() == password
    assert more.group_of("v1") == groups.group_of("v1") != more.group_of("v2")
    good("add-worker", directory, "w3")  # of any version
    any_version = read_groups(client(directory, "worker", "w3") / "share-groups")
    assert [any_version.group_of(one) for one in ("v1", "v2")] == [more.group_of(one) for one in ("v1", "v2")]
    good("rotate", directory, "--groups")
    assert read_groups(folder / "share-groups").group_of("v1") != groups.group_of("v1")


def test_a_new_server_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    port = int(json.loads((directory / "identities.json").read_text())["address"].partition(":")[2])
    with running(directory, tmp_path / "log"):
        shown = ssl.get_server_certificate(("127.0.0.1", port))
        assert shown == (directory / "tls" / "server.crt").read_text()
        good("rotate", directory, "--server")
        renewed = ssl.get_server_certificate(("127.0.0.1", port))
    assert renewed != shown
    assert renewed == (directory / "tls" / "server.crt").read_text()


def test_only_one_broker_runs_from_a_folder(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    with running(directory, tmp_path / "log"):
        second = run_apart("run", directory)
    assert second.returncode == 4
    assert "runs from" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("init", "X"), "by which name", 2),
        (("init", "X", "--name", "a", "--port", "0"), "port 0 is none", 2),
        (("init", "D", "--name", "another"), "holds a broker already", 2),
        (("add-device", "X", "a"), "holds no broker", 4),
        (("add-device", "D", "a/b"), "cannot stand in a topic", 2),
        (("add-device", "D", "flexspec-broker"), "the broker's own name", 2),
        (("add-device", "D", "w1"), "w1 is there already, with the role worker", 2),
        (("add-worker", "D", "w2", "--version", "a b"), "cannot stand in a topic", 2),
        (("revoke", "D", "nobody"), "none of this broker's clients", 2),
        (("rotate", "D"), "what is to be new", 2),
        (("rotate", "D", "nobody"), "none of this broker's clients", 2),
        (("run", "X"), "holds no broker", 4),
    ],
)
def test_bad_input_is_named(tmp_path: Path, arguments: tuple[str, ...], said: str, code: int) -> None:
    directory = made(tmp_path / "D")
    good("add-worker", directory, "w1")
    before = (directory / "identities.json").read_bytes()
    where = {"X": tmp_path / "X", "D": directory}
    done = run(*(where.get(one, one) for one in arguments))
    assert done.returncode == code
    assert said in done.stderr
    assert "hint: " in done.stderr
    assert not (tmp_path / "X").exists()
    assert (directory / "identities.json").read_bytes() == before
