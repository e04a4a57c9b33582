"""The doctor of a daemon that follows a family, with a real broker, catalogues sealed here, and heads in a folder."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from broker.launcher import PrivateBroker
from flexspec_mq.catalogue.signing import PrivateKey
from flexspec_mq.catalogue.store import Store
from flexspec_mq.doctor.checks import Finding, State
from tests.daemons import worker_at
from tests.doctor.setups import faults, look, look_at_worker
from tests.edge_node.api.served import links_to, served
from tests.edge_node.families import STABLE, Family, publisher, version

Look = Callable[..., Awaitable[list[Finding]]]


async def look_by_name(
    broker: PrivateBroker, family: Family, folder: Path, *flags: str, part: Look = look
) -> dict[str, Finding]:
    where = ("--family", family.name, "--root-key", family.root.public.hex(), "--state-dir", str(folder))
    findings = await part(f"127.0.0.1:{broker.port}", *where, *flags)
    return {finding.name: finding for finding in findings}


async def test_the_doctor_says_what_holds(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with publisher(mosquitto, family) as publish:
        nothing = await look_by_name(mosquitto, family, tmp_path)
        assert (nothing["catalogue"].state, nothing["text"].state) == (State.FAILED, State.SKIPPED)
        assert f"no catalogue of the family {family.name}" in nothing["catalogue"].detail
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        async with worker_at(links_to(mosquitto), f"{family.name}-w", version=name):
            well = await look_by_name(mosquitto, family, tmp_path)
            assert faults(list(well.values())) == []
            said = well["catalogue"].detail
            assert f"{family.name} has epoch {family.epoch}" in said
            assert "expires in 6 days" in said or "expires in 7 days" in said
            assert f"{name} stable" in said
            assert name in well["worker"].detail
            assert well["text"].state is State.OK
            of_worker = await look_by_name(mosquitto, family, tmp_path, part=look_at_worker)
            assert of_worker["catalogue"].detail == said
            assert of_worker["tokenizer"].state is State.OK
            assert Store(tmp_path, family.name).load() is None  # it is the daemon's to remember
            family.remember(tmp_path, version(name, STABLE))
            await publish.raw(family.catalogue(version("evil", STABLE), by=PrivateKey.generate()))
            forged = await look_by_name(mosquitto, family, tmp_path)
            assert forged["catalogue"].state is State.WARNING
            assert "signature: the catalogue has 0 valid signatures" in forged["catalogue"].detail
            assert forged["text"].state is State.OK
            await publish.raw(b"")
            cleared = await look_by_name(mosquitto, family, tmp_path)
            assert cleared["catalogue"].state is State.OK
            assert cleared["text"].state is State.OK


async def test_the_node_that_runs_is_asked_for_the_text(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    name = f"{family.name}-a"
    async with publisher(mosquitto, family) as publish:
        await publish.keys()
        await publish.catalogue(version(name, STABLE))
        async with served(mosquitto, version=name, family=family.followed(tmp_path)) as api:
            await publish.raw(b"nonsense")
            edge, port = api.node.name, api.url.rpartition(":")[2]
            seen = await look_by_name(mosquitto, family, tmp_path, "--edge", edge, "--api-port", port)
            assert "malformed" in seen["catalogue"].detail
            assert seen["text"].state is State.OK
            assert f"from the running edge node at {api.url}" in seen["text"].detail


async def test_a_damaged_record(mosquitto: PrivateBroker, tmp_path: Path) -> None:
    family = Family()
    family.remember(tmp_path, version("a", STABLE))
    record = Store(tmp_path, family.name).path
    record.write_bytes(record.read_bytes()[:-1])
    damaged = (await look_by_name(mosquitto, family, tmp_path))["catalogue"]
    assert (damaged.state, damaged.fault) == (State.FAILED, "settings")
    assert "is damaged" in damaged.detail
    assert "remove it" in damaged.advice
