"""The doctor warns of a deployment that is open where it should not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.files import write_private
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq import topics
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.doctor.checks import Report, State
from flexspec_mq.doctor.daemon import DaemonDoctor
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.testbed.memory_broker import MemoryBroker


def as_truck(**more: Any) -> LinkSettings:
    return LinkSettings(client_id="c", username="truck", password="x", **more)  # noqa: S106  no secret


async def exposed(settings: LinkSettings, link: Link, *files: Path, **more: Any) -> Report:
    topic = topics.edge_status_topic("truck")
    doctor = DaemonDoctor("truck", settings, topic, "base", FamilyOptions(), listening=0.0)
    doctor.link = link
    report = Report("exposure")
    await link.wait_up(20)
    doctor.secrets = files
    vars(doctor).update(more)
    await doctor.check_exposure(report)
    return report


async def warnings(settings: LinkSettings, *files: Path, **more: Any) -> list[str]:
    """Warnings about a broker that lets everybody write everywhere."""
    async with MemoryBroker().link(LinkSettings(client_id="doctor")) as link:
        found = [
            one
            for one in (await exposed(settings, link, *files, **more)).findings
            if one.state is not State.OK
        ]
    assert {(one.state, one.fault) for one in found} <= {(State.WARNING, "open deployment")}
    return [one.detail for one in found]


async def test_a_private_broker_is_not_open() -> None:
    assert await warnings(LinkSettings(client_id="c")) == []


async def test_beyond_this_machine() -> None:
    plain, anonymous, unkeyed = await warnings(LinkSettings(client_id="c", host="broker.example"))
    assert "has no TLS" in plain
    assert "lets in anybody" in anonymous
    assert "no keys are used" in unkeyed
    over_tls = as_truck(host="broker.example", tls=TlsSettings())
    (rules,) = await warnings(over_tls, keys=Path("/no/such/keys.json"))
    assert "write where only another may" in rules
    assert len(await warnings(over_tls)) == 2


async def test_secrets_that_others_can_read(tmp_path: Path) -> None:
    hidden, shown = tmp_path / "hidden", tmp_path / "shown"
    write_private(hidden, "x")
    shown.write_text("x")
    shown.chmod(0o640)
    assert await warnings(LinkSettings(client_id="c"), hidden, shown) == [
        f"others on this machine can read {shown}"
    ]


async def test_the_group_that_everybody_knows() -> None:
    said = await warnings(as_truck(), public_group=True)
    assert any("take sessions away" in one for one in said)
    assert await warnings(LinkSettings(client_id="c"), public_group=True) == []


@pytest.mark.parametrize("role", [Role.EDGE, Role.WORKER])
async def test_our_own_rules_are_closed(role: Role) -> None:
    with PrivateBroker(BrokerSettings(port=0, users=(User("truck", role, hashed("x")),))) as broker:
        settings = as_truck(port=broker.port)
        async with mqtt_link(settings) as link:
            report = await exposed(settings, link)
    assert [one.state for one in report.findings] == [State.OK]
