"""The doctor of an edge that follows a family, with a real broker and catalogues sealed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor.checks import Finding, State
from tests.daemons import worker_at
from tests.doctor.setups import faults, look
from tests.edge_node.api.served import links_to, served
from tests.edge_node.families import STABLE, Family, publisher, version


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
async def test_a_user_without_a_home(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    flags = ("--family", family.name, "--root-key", family.root.public.hex())
    homeless = {one.name: one for one in await look(f"127.0.0.1:{mosquitto.port}", *flags)}
    found = homeless["family"]
    assert (found.state, found.fault) == (State.FAILED, "settings")
    assert "this user has no home" in found.detail
    assert "--state-dir" in found.advice
    assert homeless["cache"].state is State.FAILED
    stated = await look(f"127.0.0.1:{mosquitto.port}", *flags, "--state-dir", str(tmp_path))
    assert "no catalogue" in {one.name: one for one in stated}["family"].detail


async def test_a_damaged_record(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    family.remember(tmp_path, version("a", STABLE))
    record = Store(tmp_path, family.name).path
    record.write_bytes(record.read_bytes()[:-1])
    damaged = (await found(mosquitto, family, tmp_path))["family"]
    assert (damaged.state, damaged.fault) == (State.FAILED, "settings")
    assert "is damaged" in damaged.detail
    assert "remove it" in damaged.advice
