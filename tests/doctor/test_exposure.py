"""The doctor warns of a deployment that is open where it should not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broker.files import write_private
from flexspec_mq import topics
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.doctor.checks import Report, State
from flexspec_mq.doctor.daemon import DaemonDoctor
from flexspec_mq.transport.base import LinkSettings, TlsSettings
from lab.testbed.memory_broker import MemoryBroker


def as_truck(**more: Any) -> LinkSettings:
    return LinkSettings(client_id="c", username="truck", password="x", **more)  # noqa: S106  no secret


async def warnings(settings: LinkSettings, *files: Path, **more: Any) -> list[str]:
    """Warnings about a broker that lets everybody write everywhere."""
    topic = topics.edge_status_topic("truck")
    doctor = DaemonDoctor("truck", settings, topic, "base", FamilyOptions(), listening=0.0)
    doctor.secrets = files
    vars(doctor).update(more)
    report = Report("exposure")
    async with MemoryBroker().link(LinkSettings(client_id="doctor")) as doctor.link:
        await doctor.link.wait_up(20)
        await doctor.check_exposure(report)
    bad = [finding for finding in report.findings if finding.state is not State.OK]
    assert {(finding.state, finding.fault) for finding in bad} <= {(State.WARNING, "open deployment")}
    return [finding.detail for finding in bad]


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
    assert any("take sessions away" in warning for warning in said)
    assert await warnings(LinkSettings(client_id="c"), public_group=True) == []
