"""The doctor of a daemon that follows a family, with a real broker, catalogues sealed here, and heads in a folder."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import cloud_worker.__main__ as cloud
from broker.launcher import PrivateBroker
from cloud_worker.doctor import WorkerDoctor
from cloud_worker.settings import from_arguments
from flexspec_mq.catalogue import editing
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor.checks import Finding, State
from flexspec_mq.models.head import weights_fingerprint
from flexspec_mq.models.load import LoadedText, load_text
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from tests.daemons import worker_at
from tests.doctor.setups import QUICK, WORKER, faults, look, look_at_worker
from tests.edge_node.api.served import links_to, served
from tests.edge_node.families import STABLE, Family, publisher, version
from tests.families import FAMILY, Operator
from tests.models.tiny_checkpoints import save, tiny_llama

Look = Callable[..., Awaitable[list[Finding]]]


async def found(broker: PrivateBroker, family: Family, folder: Path, *flags: str) -> dict[str, Finding]:
    where = ("--family", family.name, "--root-key", family.root.public.hex(), "--state-dir", str(folder))
    return {one.name: one for one in await look(f"127.0.0.1:{broker.port}", *where, *flags)}


async def test_the_doctor_says_what_holds(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with publisher(mosquitto, family) as publish:
        nothing = await found(mosquitto, family, tmp_path)
        assert (nothing["family"].state, nothing["text"].state) == (State.FAILED, State.SKIPPED)
        assert f"no catalogue of the family {family.name}" in nothing["family"].detail
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        async with worker_at(links_to(mosquitto), f"{family.name}-w", version=name):
            well = await found(mosquitto, family, tmp_path)
            assert faults(list(well.values())) == []
            said = well["family"].detail
            assert f"{family.name} has epoch {family.epoch}" in said
            assert "expires in 6 days" in said or "expires in 7 days" in said
            assert f"{name} stable" in said
            assert name in well["worker"].detail
            assert well["text"].state is State.OK
            assert Store(tmp_path, family.name).load() is None  # it is the daemon's to remember
            family.remember(tmp_path, version(name, STABLE))
            await publish.raw(family.catalogue(version("evil", STABLE), by=PrivateKey.generate()))
            forged = await found(mosquitto, family, tmp_path)
            assert forged["family"].state is State.WARNING
            assert "signature: the catalogue has 0 valid signatures" in forged["family"].detail
            assert forged["text"].state is State.OK
            await publish.raw(b"")
            cleared = await found(mosquitto, family, tmp_path)
            assert cleared["family"].state is State.OK
            assert cleared["text"].state is State.OK


async def test_the_doctor_asks_the_node_that_runs(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with publisher(mosquitto, family) as publish:
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        async with served(mosquitto, version=name, family=family.followed(tmp_path)) as api:
            await publish.raw(b"nonsense")
            edge, port = api.node.name, api.url.rpartition(":")[2]
            seen = await found(mosquitto, family, tmp_path, "--edge", edge, "--api-port", port)
            assert "malformed" in seen["family"].detail
            assert seen["text"].state is State.OK
            assert f"from the running edge node at {api.url}" in seen["text"].detail


@pytest.mark.usefixtures("no_home")
@pytest.mark.parametrize(
    ("part", "checks"), [(look, ["family"]), (look_at_worker, ["state", "catalogue"])], ids=["edge", "cloud"]
)
async def test_a_user_without_a_home(mosquitto: PrivateBroker, part: Look, checks: list[str]) -> None:
    flags = ("--family", FAMILY, "--root-key", PrivateKey.generate().public.hex())
    found = {one.name: one for one in await part(f"127.0.0.1:{mosquitto.port}", *flags)}
    for name in checks:
        assert (found[name].state, found[name].fault) == (State.FAILED, "settings")
        assert "this user has no home" in found[name].detail
        assert "--state-dir" in found[name].advice
    assert found["cache"].state is State.FAILED


async def test_a_damaged_record(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    family.remember(tmp_path, version("a", STABLE))
    record = Store(tmp_path, family.name).path
    record.write_bytes(record.read_bytes()[:-1])
    damaged = (await found(mosquitto, family, tmp_path))["family"]
    assert (damaged.state, damaged.fault) == (State.FAILED, "settings")
    assert "is damaged" in damaged.detail
    assert "remove it" in damaged.advice


async def at_worker(
    broker: PrivateBroker, base: LoadedText, root: PrivateKey, state: Path, *flags: str
) -> dict[str, Finding]:
    family = ("--family", FAMILY, "--root-key", root.public.hex(), "--state-dir", str(state))
    given = ("doctor", "--broker", f"127.0.0.1:{broker.port}", "--target", str(base.source), *family, *flags)
    config = from_arguments(cloud.build_parser().parse_args([*given, "--worker", WORKER])).settings
    found = await WorkerDoctor(config, lambda _: base, QUICK).examine(lambda _text: None, 50.0)
    return {one.name: one for one in found}


async def publish(broker: PrivateBroker, operator: Operator) -> None:
    async with mqtt_link(LinkSettings(port=broker.port, client_id="operator")) as link:
        await link.wait_up(10.0)
        await operator.publish(link)


async def test_the_doctor_says_what_a_worker_would_make_of_a_family(
    own_mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    broker, state = own_mosquitto, tmp_path / "state"
    base = load_text(save(tmp_path / "base", tiny_llama()))
    operator = Operator(tmp_path / "heads")
    facts = {"tokenizer": base.fingerprint.hex(), "layers": 2, "floor": 1}
    ours = weights_fingerprint(tmp_path / "base")
    operator.begin("v1", operator.head({}, kind="base", base=ours, **facts))
    await publish(broker, operator)

    well = await at_worker(broker, base, operator.root, state)
    assert faults(list(well.values())) == []
    assert f"{FAMILY} has epoch {operator.current.epoch}" in well["catalogue"].detail
    assert "are for this worker" in well["heads"].detail
    assert not state.exists()
    assert Store(state, FAMILY).load() is None  # it is the daemon's to remember

    state.write_text("a file")
    stranger = await at_worker(broker, base, PrivateKey.generate(), tmp_path)
    assert (stranger["catalogue"].state, stranger["heads"].state) == (State.FAILED, State.SKIPPED)
    assert "signature: the key set of smol has 0 valid signatures" in stranger["catalogue"].detail
    blocked = await at_worker(broker, base, operator.root, state)
    assert (blocked["state"].state, blocked["catalogue"].state) == (State.FAILED, State.FAILED)
    assert "--state-dir" in blocked["state"].advice
    state.unlink()

    other = operator.head({}, kind="base", base="0" * 32, **facts)
    operator.catalogue = editing.publish(operator.current, time.time() - 50, name="v2", digest=other)
    await publish(broker, operator)
    odd = (await at_worker(broker, base, operator.root, state))["heads"]
    assert odd.state is State.WARNING
    assert f"v2: not for this worker: its base is {'0' * 32}, here it is {ours}" in odd.detail
    assert "v1" not in odd.detail

    operator.heads.rename(tmp_path / "elsewhere")
    away = (await at_worker(broker, base, operator.root, state))["heads"]
    assert (away.state, away.fault) == (State.FAILED, "model missing")
    assert "v1: there is no manifest.json" in away.detail
    there = (await at_worker(broker, base, operator.root, state, "--heads", str(tmp_path / "elsewhere")))[
        "heads"
    ]
    assert there.state is State.WARNING
