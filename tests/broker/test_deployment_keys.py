"""Keys of a deployment, by the commands: what is signed, handed out, published, and void."""

import asyncio
import json
import shutil
import stat
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.deployment.folder import Deployment
from broker.settings import Role
from flexspec_mq import topics
from flexspec_mq.daemon.dated import DAY, LIFETIME
from flexspec_mq.errors import PublishRefused
from flexspec_mq.keys.documents import KeyRole, read_statement
from flexspec_mq.keys.identity_file import KeyIdentity, read_identity
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.deployment import free_port
from schemas.statement import ANY, Statement
from tests.broker.deployments import as_client, good, made, run, running
from tests.daemons import until

PATIENCE = 60.0


def handed(directory: Path, role: KeyRole, name: str) -> KeyIdentity:
    """Identity in the key file that a client is handed, read as the client reads it."""
    return read_identity(directory / "hand-out" / role.value / name / "keys.json", role)


def edge(directory: Path, name: str) -> KeyIdentity:
    return handed(directory, KeyRole.EDGE, name)


def worker(directory: Path, name: str) -> KeyIdentity:
    return handed(directory, KeyRole.WORKER, name)


def listed(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(good("list", directory, "--json"))
    return found


def revoked(directory: Path) -> set[str]:
    return set(listed(directory)["keys"]["revoked"])


def serial(one: KeyIdentity) -> str:
    return one.credential.serial.hex()


async def statement(link: Link, public: bytes) -> Statement:
    async with asyncio.timeout(PATIENCE):
        async for event in link.events():
            if isinstance(event, Inbound) and event.topic == "f1/i":
                return read_statement(event.payload, public)
    raise AssertionError


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment with keys and three clients, to be copied."""
    directory = made(tmp_path_factory.mktemp("keyed") / "d", "--keys")
    good("add-worker", directory, "w1", "--version", "v1")
    good("add-device", directory, "alice", "bob")
    return directory


@pytest.fixture
def keyed(untouched: Path, tmp_path: Path) -> Path:
    """The same for one test, which may change it."""
    return Path(shutil.copytree(untouched, tmp_path / "d"))


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        (("--host", "127.0.0.1"), False),
        (("--host", "127.0.0.1", "--keys"), True),
        (("--host", "127.0.0.1", "--client-certificates"), False),
        (("--name", "broker.example"), True),
    ],
)
def test_keys_are_made_beyond_this_machine_unless_told(
    tmp_path: Path, flags: tuple[str, ...], has: bool
) -> None:
    said = good("init", tmp_path / "d", *flags)
    assert (listed(tmp_path / "d")["keys"] is not None) == has
    assert ("with keys" in said) == has
    assert ("TLS 1.3" in said) == (flags[0] == "--name" or "--client-certificates" in flags)
    assert (tmp_path / "d" / "keys").exists() == has
    good("add-device", tmp_path / "d", "alice")
    folder = tmp_path / "d" / "hand-out" / "edge" / "alice"
    assert (folder / "keys.json").exists() == has
    assert ("keys" in tomllib.loads((folder / "edge.toml").read_text())) == has


def test_a_daemon_is_handed_what_it_needs(keyed: Path) -> None:
    for identity, file in ((edge(keyed, "alice"), "edge.toml"), (worker(keyed, "w1"), "cloud.toml")):
        one = identity.credential
        folder = keyed / "hand-out" / one.role.value / one.name
        assert tomllib.loads((folder / file).read_text())["keys"] == "keys.json"
        assert stat.S_IMODE((folder / "keys.json").stat().st_mode) == 0o600
        assert one.versions == (("v1",) if one.role is KeyRole.WORKER else ())
        assert identity.deployment.hex() == listed(keyed)["keys"]["deployment"]
    # A worker knows the opening key of its version, and no other; a device none.
    assert not edge(keyed, "alice").opening.candidates("v1")
    knows = worker(keyed, "w1").opening
    assert knows.public(("v1", "v2")) == {"v1": worker(keyed, "w1").statement.opening["v1"]}
    assert not knows.master


def test_nothing_secret_is_where_the_broker_that_runs_reads(keyed: Path) -> None:
    alice = edge(keyed, "alice")
    (signing,) = (keyed / "keys").glob("deployment-*.key")
    (opening,) = (keyed / "keys").glob("opening-*.key")
    text = (keyed / "identities.json").read_text()
    assert opening.read_text().strip() not in text
    assert not any(line in text for line in signing.read_text().splitlines()[1:-1])
    assert (
        json.loads((keyed / "hand-out" / "edge" / "alice" / "keys.json").read_text())["private"] not in text
    )
    assert serial(alice) in text


@pytest.mark.parametrize("flags", [(), ("--client-certificates",)], ids=["passwords", "certificates"])
async def test_the_broker_publishes_the_statement_and_each_later_one(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    directory = made(tmp_path / "d", "--keys", *flags)
    good("add-device", directory, "alice", "bob")
    gone, bob = edge(directory, "alice"), edge(directory, "bob")
    folder = directory / "hand-out" / "edge" / "bob"
    with running(directory, tmp_path / "log"):
        async with mqtt_link(as_client(folder)) as link:
            await link.subscribe(topics.statement_topic(), 1)
            first = await statement(link, bob.deployment)
            assert first.serial == 1
            assert set(first.opening) == {ANY}

            good("revoke", directory, "alice")
            # The command says that it is so when it is so: whoever comes now is told nothing older.
            async with mqtt_link(replace(as_client(folder), client_id="e-bob-late")) as late:
                await late.subscribe(topics.statement_topic(), 1)
                assert (await statement(late, bob.deployment)).serial == 2
            second = await statement(link, bob.deployment)
            assert second.serial == 2
            assert second.revoked == {gone.credential.serial}

            good("add-worker", directory, "w1", "--version", "v1")
            assert set((await statement(link, bob.deployment)).opening) == {ANY, "v1"}
            with pytest.raises(PublishRefused) as refused:
                await link.publish("f1/i", b"forged", qos=1, retain=True)
            assert refused.value.reason_code == NOT_AUTHORIZED
        # It is retained: who comes later has it too.
        async with mqtt_link(as_client(folder)) as link:
            await link.subscribe("f1/i", 1)
            assert (await statement(link, bob.deployment)).serial == 3


def test_new_opening_keys_come_with_new_groups(keyed: Path) -> None:
    before, alice = worker(keyed, "w1"), (keyed / "hand-out/edge/alice/keys.json").read_text()
    old_files = {path.name for path in (keyed / "keys").iterdir()}
    said = good("rotate", keyed, "--groups")
    assert "w1 needs its new share-groups and keys.json, and a restart" in said
    after = worker(keyed, "w1")
    assert after.statement.opening["v1"] != before.statement.opening["v1"]
    assert (keyed / "hand-out/edge/alice/keys.json").read_text() == alice
    assert revoked(keyed) == set()  # its sessions go on until it has its new files
    new_files = {path.name for path in (keyed / "keys").iterdir()}
    assert len(old_files & new_files) == 1  # the one that signs
    # Both credentials are its own, and both go with it.
    good("revoke", keyed, "w1")
    assert revoked(keyed) == {serial(before), serial(after)}


def test_a_broker_without_keys_is_given_some(tmp_path: Path) -> None:
    directory = made(tmp_path / "d")
    good("add-worker", directory, "w1", "--version", "v1")
    good("add-device", directory, "alice")
    good("add-operator", directory, "ops")
    port = json.loads((directory / "identities.json").read_text())["address"].partition(":")[2]
    same = ("--host", "127.0.0.1", "--name", "localhost", "--port", port, "--tls")
    taken = run("init", directory, *same, "--keys")
    assert taken.returncode == 2
    assert "`flexspec-broker rotate DIR --keys` makes keys" in taken.stderr
    password = (directory / "hand-out/edge/alice/password").read_text()
    said = good("rotate", directory, "--keys")
    assert "alice needs its new files" in said
    assert (directory / "hand-out/edge/alice/password").read_text() == password
    assert "ops needs" not in said
    assert edge(directory, "alice").statement.opening_of("v1")
    assert tomllib.loads((directory / "hand-out/worker/w1/cloud.toml").read_text())["keys"] == "keys.json"
    before = (directory / "keys").stat().st_mtime_ns
    good("init", directory, *same, "--keys")
    assert (directory / "keys").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("command", "missing", "what"),
    [
        (("add-device", "carol"), "deployment", "signs who a client is"),
        (("add-worker", "w2", "--version", "v1"), "opening", "the keys of their versions"),
        (("add-worker", "w2", "--version", "v2"), "deployment", "signs who a client is"),
        (("rotate", "alice"), "deployment", "signs who a client is"),
        (("rotate", "--groups"), "deployment", "signs who a client is"),
    ],
)
def test_a_key_that_is_kept_elsewhere_is_asked_for(
    keyed: Path, tmp_path: Path, command: tuple[str, ...], missing: str, what: str
) -> None:
    (file,) = (keyed / "keys").glob(f"{missing}-*.key")
    safe = tmp_path / file.name
    file.rename(safe)
    before = {path: path.read_bytes() for path in keyed.rglob("*") if path.is_file()}
    name, *rest = command
    done = run(name, keyed, *rest)
    assert done.returncode == 4
    assert f"{file} is not here, which " in done.stderr
    assert what in done.stderr
    assert f"hint: put {file.name} back into {keyed / 'keys'} for this command" in done.stderr
    assert {path: path.read_bytes() for path in keyed.rglob("*") if path.is_file()} == before
    file.symlink_to(safe)  # as from a stick
    good(name, keyed, *rest)


def test_who_is_revoked_without_the_key_is_out_at_once_and_the_statement_follows(
    keyed: Path, tmp_path: Path
) -> None:
    alice, bob = edge(keyed, "alice"), edge(keyed, "bob")
    (keyed / "keys").rename(tmp_path / "safe")
    said = good("revoke", keyed, "alice")
    assert "NOT signed yet" in said
    assert f"bring it and run `flexspec-broker revoke {keyed}`" in said
    found = listed(keyed)
    assert [one["name"] for one in found["clients"]] == ["bob", "w1"]
    assert (found["keys"]["revoked"], found["keys"]["unsigned"]) == ([], [serial(alice)])
    assert found["keys"]["signs_here"] is False
    told = good("list", keyed)
    assert serial(alice) in told
    assert "kept elsewhere" in told
    (keyed / "keys").symlink_to(tmp_path / "safe")
    assert "statement 3 says so" in good("revoke", keyed)
    (keyed / "keys").unlink()
    assert revoked(keyed) == {serial(alice)}
    assert listed(keyed)["keys"]["unsigned"] == []
    nothing = run("revoke", keyed)
    assert nothing.returncode == 2
    assert "who is to be let in no more?" in nothing.stderr
    # Any other command that has the key says it as well.
    good("revoke", keyed, "bob")
    (keyed / "keys").symlink_to(tmp_path / "safe")
    good("add-device", keyed, "carol")
    assert revoked(keyed) == {serial(alice), serial(bob)}


async def test_who_runs_the_broker_need_hold_no_secret_of_the_deployment(keyed: Path, tmp_path: Path) -> None:
    """Elsewhere it has all but `keys`, `hand-out` and the authority's key, and takes up what is brought."""
    there = tmp_path / "there"
    shutil.copytree(keyed, there, ignore=shutil.ignore_patterns("keys", "hand-out", "ca.key"))
    alice, bob = edge(keyed, "alice"), edge(keyed, "bob")
    folder = keyed / "hand-out" / "edge" / "bob"
    with running(there, tmp_path / "log"):
        async with mqtt_link(as_client(folder)) as link:
            await link.subscribe("f1/i", 1)
            first = await statement(link, bob.deployment)
            assert "from its next start on" in good("revoke", keyed, "alice")  # here nothing runs
            shutil.copy(keyed / "identities.json", there / "brought")
            (there / "brought").replace(there / "identities.json")
            second = await statement(link, bob.deployment)
    assert not first.revoked
    assert second.revoked == {alice.credential.serial}


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (149, ""),
        (155, "in 25 days: `flexspec-broker renew"),
        (200, "by this machine's clock: `flexspec-broker renew"),
    ],
)
async def test_a_statement_that_expires_is_told_and_renewed(tmp_path: Path, ago: int, words: str) -> None:
    """By every command, by the broker that runs in its log and figures; by those that sign, and on purpose."""
    directory = tmp_path / "d"
    made(directory, "--keys")
    past = Deployment(directory, lambda: time.time() - ago * DAY)
    past.rotate_keys()
    past.add(Role.EDGE, ["alice"], ())
    (directory / "keys").rename(tmp_path / "safe")
    expires = listed(directory)["keys"]["expires"]
    assert f"holds until {time.strftime('%Y-%m-%d', time.gmtime(expires))}" in good("list", directory)
    for command in (("list", directory), ("revoke", directory, "alice")):
        told = run(*command).stderr
        assert words in told
        assert bool(told) == bool(words)
    refused = run("renew", directory)
    assert refused.returncode == 4
    assert "is not here, which signs" in refused.stderr
    figures = free_port()
    with running(directory, tmp_path / "log", "--metrics-port", str(figures)):
        page = httpx2.get(f"http://127.0.0.1:{figures}/metrics").text
        (shown,) = (
            line for line in page.splitlines() if line.startswith("flexspec_broker_statement_expires")
        )
        assert float(shown.rpartition(" ")[2]) == expires
        await until(lambda: words.partition(":")[0] in (tmp_path / "log").read_text())
        (tmp_path / "safe").rename(directory / "keys")
        said = good("renew", directory)
        assert f"statement {past.load().keys.read().serial} holds until" in said  # type: ignore[union-attr]
        assert "and the broker shows it" in said
    assert listed(directory)["keys"]["expires"] >= int(time.time()) + LIFETIME - 60
    assert run("list", directory).stderr == ""
    assert ("expires on" in (tmp_path / "log").read_text()) == (ago == 155)
    past.renew()
    assert listed(directory)["keys"]["expires"] <= int(time.time()) + LIFETIME - ago * DAY
    good("add-operator", directory, "ops")
    assert listed(directory)["keys"]["expires"] >= int(time.time()) + LIFETIME - 60


def test_a_key_of_another_deployment_signs_nothing(keyed: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", "--keys")
    (mine,) = (keyed / "keys").glob("deployment-*.key")
    (its,) = (other / "keys").glob("deployment-*.key")
    for text, said in (
        (its.read_text(), "is the key of another deployment"),
        ("nonsense\n", "cannot be used: this is no private key"),
    ):
        mine.write_text(text)
        done = run("add-device", keyed, "carol")
        assert done.returncode == 4
        assert said in done.stderr
