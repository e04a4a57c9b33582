"""`check` tells a good broker from one that is not; tests of the doctor plant what else can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config import config_text
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings, Role, User, hashed
from flexspec_mq.doctor.checks import Finding, State, run_checks
from flexspec_mq.doctor.qualities import broker_checks
from flexspec_mq.transport.base import LinkSettings

pytestmark = pytest.mark.alone


async def check(
    at: PrivateBroker, topic: str = "f1/check", username: str | None = None, password: str | None = None
) -> dict[str, Finding]:
    """Findings by name, without those that were skipped."""
    settings = LinkSettings(
        host=at.host,
        port=at.port,
        client_id="check",
        username=username,
        password=password,
        publish_timeout=5.0,
    )
    findings = await run_checks(broker_checks(settings, topic))
    return {finding.name: finding for finding in findings if finding.state is not State.SKIPPED}


async def test_ours_is_good(mosquitto: PrivateBroker) -> None:
    findings = await check(mosquitto)
    assert {name: finding.state for name, finding in findings.items()} == dict.fromkeys(
        ("broker", "login", "retained messages", "shared subscriptions", "reason codes", "round trip"),
        State.OK,
    )


async def test_nagle_at_the_broker_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_nagle(settings: BrokerSettings, directory: Path) -> str:
        return config_text(settings, directory).replace("set_tcp_nodelay true", "set_tcp_nodelay false")

    monkeypatch.setattr("broker.config.config_text", with_nagle)
    with PrivateBroker() as slow:
        finding = (await check(slow))["round trip"]
    assert finding.state is State.WARNING  # it works all the same
    assert "set_tcp_nodelay" in finding.advice


async def test_login_and_access_rules() -> None:
    users = (User("alice", Role.EDGE, hashed("right")),)
    with PrivateBroker(BrokerSettings(port=0, users=users)) as closed:
        refused = await check(closed, "f1/check", "alice", "wrong")
        limited = await check(closed, "f1/check", "alice", "right")
        own = await check(closed, "f1/r/alice", "alice", "right")
    assert list(refused)[-1] == "login"
    assert refused["login"].state is State.FAILED
    assert limited["login"].state is own["login"].state is own["retained messages"].state is State.OK
    assert limited["retained messages"].state is State.FAILED
    assert "--topic" in limited["retained messages"].advice
