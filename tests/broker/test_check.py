"""`check` tells a good broker from one that is not."""

from __future__ import annotations

import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq.doctor.checks import Finding, State, run_checks
from flexspec_mq.doctor.qualities import broker_checks
from flexspec_mq.transport.base import LinkSettings

pytestmark = pytest.mark.alone


async def check(
    host: str,
    port: int,
    username: str | None = None,
    password: str | None = None,
    *,
    topic: str = "f1/check",
    timeout: float = 5.0,
) -> list[Finding]:
    settings = LinkSettings(
        host=host,
        port=port,
        client_id="check",
        username=username,
        password=password,
        connect_timeout=timeout,
        publish_timeout=timeout,
    )
    found = await run_checks(broker_checks(settings, topic))
    return [finding for finding in found if finding.state is not State.SKIPPED]


def is_ok(finding: Finding) -> bool:
    return finding.state is State.OK


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


async def test_ours_is_good(mosquitto: PrivateBroker) -> None:
    findings = await check(mosquitto.host, mosquitto.port)
    assert [f.name for f in findings if not is_ok(f)] == []
    assert set(by_name(findings)) == {
        "broker",
        "login",
        "retained messages",
        "shared subscriptions",
        "reason codes",
        "round trip",
    }


async def test_nagle_at_the_broker_is_noticed() -> None:
    with PrivateBroker(BrokerSettings(port=0, nodelay=False)) as slow:
        finding = by_name(await check(slow.host, slow.port))["round trip"]
    assert finding.state is State.WARNING  # it works all the same
    assert "set_tcp_nodelay" in finding.advice


async def test_login_and_access_rules() -> None:
    with PrivateBroker(BrokerSettings(port=0, users=(User("alice", Role.EDGE, hashed("right")),))) as closed:
        refused = await check(closed.host, closed.port, "alice", "wrong")
        assert not is_ok(refused[-1])
        assert refused[-1].name == "login"
        limited = by_name(await check(closed.host, closed.port, "alice", "right"))
        assert is_ok(limited["login"])
        assert not is_ok(limited["retained messages"])
        assert "--topic" in limited["retained messages"].advice
        own = by_name(await check(closed.host, closed.port, "alice", "right", topic="f1/r/alice"))
        assert is_ok(own["retained messages"])
