"""Planted faults behind the broker: access rules, workers, tokenizers, clocks, and two daemons with one id."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.daemon.dated import DAY
from flexspec_mq.daemon.tasks import running
from flexspec_mq.doctor.checks import State
from flexspec_mq.errors import LinkRefused
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import FINGERPRINT
from schemas.status import WorkerStatus
from tests.daemons import edge_at, until
from tests.doctor.setups import (
    EDGE,
    USERS,
    WORKER,
    at,
    faults,
    login,
    look,
    look_at_worker,
    named,
    the_fault,
    with_rules,
    worker,
)
from tests.edge_node.api.served import another, links_to
from tests.integration.processes import PATIENCE
from tests.keys.deployments_of_keys import KeyedDeployment


async def test_nothing_is_wrong(own_mosquitto: PrivateBroker) -> None:
    async with worker(own_mosquitto) as daemon:
        findings = await look(at(own_mosquitto))
        assert faults(findings) == []
        assert {finding.state for finding in findings} == {State.OK}
        assert "4 tokens by worker w1" in named(findings, "text").detail
        assert "verification exact" in named(findings, "text").detail
        assert daemon.worker.malformed == 0  # the doctor sent it nothing that it could not read
        assert daemon.worker.machine.counters.opened == 1
        assert await retained(own_mosquitto, topics.edge_status_topic(EDGE)) == []  # nothing is left behind


async def retained(where: PrivateBroker, topic: str) -> list[bytes]:
    """Payloads that the broker keeps on a topic; a last message of ours says that all of them have come."""
    payloads: list[bytes] = []
    async with asyncio.timeout(PATIENCE), mqtt_link(LinkSettings(port=where.port, client_id="looks")) as link:
        await link.wait_up()
        await link.subscribe(topic)
        await link.subscribe("end")
        await link.publish("end", b"", qos=1)
        async for event in link.events():
            if getattr(event, "topic", "") == "end":
                return payloads
            if payload := getattr(event, "payload", b""):
                payloads.append(payload)
    raise AssertionError


# Access rules


@pytest.mark.parametrize(
    ("user", "lines"),
    [
        (
            "truck",
            {
                "pattern write f1/o/+/%u": "publish on f1/o/base/truck",
                "pattern write f1/d/w1/%u": "publish on f1/d/w1/truck",
                "pattern readwrite f1/e/%u": "publish on f1/e/truck",
            },
        ),
        ("truck", {"pattern read f1/w/+": "read f1/w/+"}),
        (
            "w1",
            {
                "topic read f1/o/+/+": "read f1/o/base/+",
                "topic read f1/d/w1/+": "read f1/d/w1/+",
                "topic write f1/v/+": "publish on f1/v/+",
                "topic write f1/w/w1": "publish on f1/w/w1",
            },
        ),
    ],
)
async def test_acl_refusal(user: str, lines: dict[str, str], tmp_path: Path) -> None:
    """Lines that are missing, and what the doctor says may not be done."""
    with with_rules(lines) as where:
        if user == WORKER:
            findings = await look_at_worker(at(where), *login(tmp_path, USERS[1]))
        else:
            async with worker(where, user=USERS[1]):
                findings = await look(at(where), *login(tmp_path, USERS[0]))
    refusals = [finding for finding in findings if finding.name == "access"]
    assert {(refusal.fault, refusal.exit_code) for refusal in refusals} == {("ACL refusal", 4)}
    assert all(f"let user '{user}'" in refusal.advice for refusal in refusals)
    for what in lines.values():
        assert [what for refusal in refusals if what in refusal.detail], what
    assert set(faults(findings)) == {"ACL refusal"}


async def test_answers_that_may_not_be_read_show_in_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexspec_mq.waiting.STALLED", 3.0)
    with with_rules(["pattern read f1/v/%u"]) as where:
        async with worker(where, user=USERS[1]):
            findings = await look(at(where), *login(tmp_path, USERS[0]))
    the_fault(findings, "no text", advice=["let user 'truck' read f1/v/truck"])


async def test_rules_that_let_anybody_write_anywhere(tmp_path: Path) -> None:
    with with_rules((), "pattern write f1/#") as where:
        findings = await look_at_worker(at(where), *login(tmp_path, USERS[1]))
    assert faults(findings) == ["open deployment"]
    assert "write where only another may" in named(findings, "exposure").detail


async def test_a_wrong_password_and_a_daemon_that_is_not_named_as_its_user(tmp_path: Path) -> None:
    with with_rules() as where:
        findings = await look(at(where), *login(tmp_path, USERS[0], "secret-of-nobody"))
        the_fault(findings, "login refused", advice=["password"])
        assert not any("secret-of" in finding.detail + finding.advice for finding in findings)
        the_fault(await look(at(where)), "login refused", advice=["--username"])
        findings = await look(at(where), "--edge", "other", *login(tmp_path, USERS[0]))
    refusal = next(finding for finding in findings if finding.fault == "ACL refusal")
    assert "publish on f1/o/base/other" in refusal.detail
    assert "we are named 'other' and log in as 'truck'" in refusal.advice
    assert "leave --edge or --worker out" in refusal.advice


# Keys


@pytest.mark.parametrize(
    ("days", "state", "words"),
    [
        (100, State.OK, "statement 1 holds until 20"),
        (20, State.WARNING, "the deployment's statement expires on 20"),
        (-1, State.FAILED, "the deployment's statement expired on 20"),
        (None, State.WARNING, "no statement of the deployment came from the broker"),
    ],
)
async def test_how_long_the_deployments_statement_holds(
    tmp_path: Path, own_mosquitto: PrivateBroker, days: int | None, state: State, words: str
) -> None:
    keys = KeyedDeployment(tmp_path, expires=time.time() + DAY * (days or 0))
    if days is not None:
        async with mqtt_link(LinkSettings(port=own_mosquitto.port, client_id="statements")) as link:
            await link.wait_up()
            await link.publish(topics.statement_topic(), keys.statement(), qos=1, retain=True)
    else:
        keys.expires = time.time() + 100 * DAY
    found = named(await look(at(own_mosquitto), "--keys", str(keys.edge_file(EDGE))), "keys")
    assert found.state is state
    assert words in found.detail
    assert found.exit_code == (5 if state is State.FAILED else 0)
    assert bool(found.advice) == (state is not State.OK)


# Tokenizer


async def test_wrong_tokenizer(own_mosquitto: PrivateBroker) -> None:
    async with worker(own_mosquitto):
        findings = await look(at(own_mosquitto), fingerprint=bytes(16))
    ours, theirs = "ours is 000000000000…", FINGERPRINT.hex()[:12]
    the_fault(findings, "wrong tokenizer", ours, theirs, advice=["--draft"])
    assert named(findings, "text").state is State.SKIPPED


async def test_a_tokenizer_with_another_chat_template_is_a_warning(own_mosquitto: PrivateBroker) -> None:
    asks = "{% for m in messages %}{{ '?' + m['content'] }}{% endfor %}!"
    async with worker(own_mosquitto, facts=another(asks)):
        findings = await look(at(own_mosquitto))
    assert faults(findings) == ["tokenizer"]
    tokenizer = named(findings, "tokenizer")
    assert tokenizer.state is State.WARNING
    assert "the chat templates differ" in tokenizer.detail
    assert named(findings, "text").state is State.OK


async def test_wrong_tokenizer_among_workers_of_a_version(own_mosquitto: PrivateBroker) -> None:
    odd = WorkerStatus(
        state="online", epoch=1, at=time.time(), worker="w9", version="base", fingerprint=bytes(16).hex()
    )
    async with mqtt_link(LinkSettings(port=own_mosquitto.port, client_id="plants")) as link:
        await link.wait_up()
        payload = Codec().encode_status(odd)
        await link.publish(topics.worker_status_topic("w9"), payload, qos=1, retain=True)
    findings = await look_at_worker(at(own_mosquitto))
    the_fault(findings, "wrong tokenizer", "w9 (000000000000…)", advice=["--version"])


# Two daemons with one id


async def test_two_daemons_with_one_id_fight(own_mosquitto: PrivateBroker) -> None:
    """Each is started again whenever it ends, as service managers do."""

    async def kept_up() -> None:
        while True:
            with contextlib.suppress(LinkRefused):
                async with edge_at(links_to(own_mosquitto), EDGE) as node:
                    await until(lambda: node.failure is not None)
                    assert node.failure is not None
                    raise node.failure
            await asyncio.sleep(0.6)  # as long as it takes to load a model, here

    async with worker(own_mosquitto), running(kept_up(), "one"), running(kept_up(), "other"):
        findings = await look(at(own_mosquitto), listening=3.0)
    the_fault(findings, "two daemons with one id", "throw each other out", advice=["--edge NAME"])


async def test_two_daemons_with_one_id_if_ours_were_started_too(own_mosquitto: PrivateBroker) -> None:
    async with worker(own_mosquitto), edge_at(links_to(own_mosquitto), EDGE) as node:
        before = await retained(own_mosquitto, topics.edge_status_topic(EDGE))
        findings = await look(at(own_mosquitto))
        assert await retained(own_mosquitto, topics.edge_status_topic(EDGE)) == before
        assert node.malformed == 0  # and it was not disturbed
        assert node.failure is None
    name = named(findings, "name")
    assert (name.state, name.fault) == (State.WARNING, "two daemons with one id")
    assert "edge node 'truck' is online already" in name.detail
    assert "stop the one that is too many" in name.advice
    assert named(findings, "text").state is State.SKIPPED
