"""The edge daemon: many sessions at once, whatever the workers, the link or the drafter do."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq import topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.controller.plan import Plan
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import (
    FlexSpecError,
    LinkRefused,
    LocalProtocolError,
    PublishRefused,
    UsageError,
    WorkerError,
)
from flexspec_mq.protocol.edge import timers
from flexspec_mq.protocol.edge.patience import Waits
from flexspec_mq.protocol.effects import FinishReason
from flexspec_mq.transport.mqtt import mqtt_link
from lab.simulator.world import EOS, FINGERPRINT, draft_token
from lab.testbed.faults import Delay, Scope
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import MAX_PROMPT_TOKENS, Close, CloseReason
from schemas.status import EdgeStatus
from tests.daemons import (
    PATIENCE,
    TARGET,
    FakeDrafter,
    FakeEngine,
    alone,
    check,
    edge_at,
    link_to,
    read,
    until,
    wanting,
    worker_at,
    world,
)
from tests.edge_node.api.served import links_to
from tests.hostile import hostile
from tests.transport.proxy import proxy_to

CODEC = Codec()

PLANS = [Plan(0, 1, 0), Plan(1, 1, 1), Plan(8, 4, 1), Plan(4, 2, 0, 16), Plan(0, 1, 1, 64), Plan(64, 8, 1)]


async def test_different_plans_at_once_write_the_same() -> None:
    async with world(["w1", "w2"]) as (_, _daemons, node):
        await check(node, [wanting(number, plan=plan) for number in range(4) for plan in PLANS])


async def test_a_worker_that_comes_back_after_the_device_is_asked_at_once(
    own_mosquitto: PrivateBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that went out before met nobody, and the next one is due after minutes."""
    slow, port = FakeEngine(before=lambda _: time.sleep(1.0)), own_mosquitto.port
    async with proxy_to("127.0.0.1", port) as at_worker, proxy_to("127.0.0.1", port) as at_edge:
        links = [
            replace(link_to(name), host="127.0.0.1", port=proxy.port)
            for name, proxy in (("w-late", at_worker), ("e-late", at_edge))
        ]
        async with (
            worker_at(mqtt_link, "late", slow, links[0], status_every=60.0),
            edge_at(mqtt_link, "late", at=links[1]) as node,
        ):
            generation = node.generate(wanting(1, limit=40, plan=Plan(0, 1, 0, 4)))
            await until(lambda: len(generation.machine.committed) >= 3)
            at_worker.stall()
            at_edge.stall()
            own_mosquitto.kill()
            await asyncio.to_thread(own_mosquitto.start)
            await asyncio.sleep(5.0)  # the worker has nothing more to write of its own accord
            monkeypatch.setattr(timers, "POLLS", tuple(300 * factor for factor in timers.POLLS))
            at_edge.resume()
            await until(lambda: node.link.is_up)
            await asyncio.sleep(0.3)
            had = len(generation.machine.committed)
            at_worker.resume()
            await until(lambda: len(generation.machine.committed) > had)
            node.cancel(generation)


async def test_an_idle_node_does_not_pay_for_statuses_and_knows_who_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "STATUS", 0.03)
    monkeypatch.setattr(waiting, "ANSWER", 0.2)
    monkeypatch.setattr(waiting, "STALE", 0.5)
    broker = MemoryBroker()

    def known() -> set[float]:
        """Times of the statuses that it has."""
        return {status.at for status in node.directory.online()}

    async with edge_at(broker.link) as node:
        async with worker_at(broker.link, "w1", status_every=0.1):
            await until(node.directory.versions)
            await asyncio.sleep(0.3)
            before = known()
            await asyncio.sleep(1.0)  # longer than what is known would live
            assert known() == before != set()
            generation = node.generate(wanting(1))
            await until(lambda: known() not in (before, set()))
            assert (await read(generation))[0] == alone(generation.request)
            await asyncio.sleep(0.3)
        async with worker_at(broker.link, "w2", version="next"):
            assert list(node.directory.versions()) == ["base"]  # as it was
            await node.directory.refreshed()
            assert list(node.directory.versions()) == ["next"]
            before = known()  # no worker of the node's own version is known: it is not idle
            await until(lambda: known() not in (before, set()))


@pytest.mark.parametrize(("answer_timeout", "again"), [(0.1, True), (60.0, False)])
async def test_an_open_is_repeated_when_the_link_s_answers_would_be_there(
    answer_timeout: float, again: bool
) -> None:
    at = replace(link_to("e-edge"), answer_timeout=answer_timeout)
    async with edge_at(MemoryBroker().link, at=at) as node:
        machine = node.generate(wanting(1)).machine
        await asyncio.sleep(1.0)
        assert (machine.counters.reopens > 0) is again


async def test_without_a_drafter_the_target_is_asked_for_each_token() -> None:
    broker = MemoryBroker()
    node = EdgeNode(EdgeSettings(edge="edge"), None, FINGERPRINT, (EOS,))
    async with worker_at(broker.link, "w1") as daemon, node.running(broker.link, link_to("e-edge")):
        (generation,) = await check(node, [wanting(1, limit=20)])
        assert generation.machine.counters.drafted == 0
        assert daemon.worker.machine.counters.items == 20


async def test_a_drafter_that_fails_costs_speed_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    broker = MemoryBroker()
    drafter = FakeDrafter()
    async with worker_at(broker.link, "w1"), edge_at(broker.link, drafter=drafter) as node:
        (before,) = await check(node, [wanting(1)])
        assert before.machine.counters.drafted > 0
        drafter.fails = True
        (after,) = await check(node, [wanting(2)])
        assert after.machine.counters.drafted == 0
    assert "the drafter failed" in caplog.text


class Generous(FakeDrafter):
    """Gives several tokens at a time, with doubts; sometimes none, and sometimes nothing yet."""

    calls = 0

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        answers: list[Drafted] = []
        for request in wanted:
            self.calls += 1
            path = list(request.context)
            for _ in range(self.calls % 4 * 3):  # more than are of use, too
                path += [draft_token(TARGET, request.identity.sampling.seed, path, self.accuracy)]
            guesses = [DraftToken(token, 0.9, "lookup") for token in path[len(request.context) :]]
            answers.append(None if self.calls % 7 == 0 else guesses)
        return answers


@pytest.mark.parametrize("stop", [0.0, 0.5])
async def test_a_drafter_may_give_several_tokens_or_none_and_stops_change_no_text(stop: float) -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"), edge_at(broker.link, drafter=Generous()) as node:
        plans = [replace(plan, confidence_threshold=stop) for plan in PLANS]
        generations = await check(node, [wanting(number, plan=plan) for number, plan in enumerate(plans * 2)])
    counters = [generation.machine.counters for generation in generations]
    assert sum(one.looked_up_accepted for one in counters) > 0
    assert (sum(one.withheld for one in counters) > 0) == (stop > 0)


async def test_leaving_tells_the_workers() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon:
        async with edge_at(broker.link) as node:
            daemon.engine.gate.clear()
            generations = [node.generate(wanting(number)) for number in range(3)]
            await until(lambda: all(generation.machine.worker for generation in generations))
        for generation in generations:
            assert (await read(generation))[1].reason is FinishReason.CANCELLED
        await until(lambda: daemon.kept == 0)
        assert daemon.worker.machine.counters.closed == 3


# Workers that go


async def test_a_worker_whose_will_is_heard_is_asked_again_and_goes_on() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon, edge_at(broker.link) as node:
        daemon.engine.gate.clear()
        generation = node.generate(wanting(1))
        await until(lambda: generation.machine.worker == "w1")
        polls = generation.machine.counters.polls
        broker.cut("w-w1")  # its will says gone; it comes back by itself
        await until(lambda: generation.machine.counters.polls > polls)
        daemon.engine.gate.set()
        assert (await read(generation))[0] == alone(generation.request)
        assert generation.machine.counters.reopens == 0


async def test_texts_that_begin_with_the_link_open_once() -> None:
    """Were it news to a session that the link is up, it would open again at a random moment, before its answer."""
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1"):
        broker.faults.append(Delay(0.1, random.Random(0), Scope("f1/#")))
        async with edge_at(broker.link) as node:
            generations = [node.generate(wanting(number, limit=3)) for number in range(12)]
            for generation in generations:
                assert (await read(generation))[0] == alone(generation.request)
            assert [generation.machine.counters.opens for generation in generations] == [1] * 12
            link = node.link._link
            assert link is not None
            broker.cut("e-edge")
            await until(lambda: link.counters.connects == 2)
            assert await node.link.wait_up(PATIENCE)
            generation = node.generate(wanting(12, limit=3))
            assert (await read(generation))[0] == alone(generation.request)
            assert generation.machine.counters.opens == 1


async def test_a_link_that_fails_for_good_fails_every_text() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon, edge_at(broker.link) as node:
        daemon.engine.gate.clear()
        generations = [node.generate(wanting(number)) for number in range(3)]
        await until(lambda: daemon.kept == 3)
        async with broker.link(link_to("e-edge")) as thief:
            await thief.wait_up()
            for generation in generations:
                finish = (await read(generation))[1]
                assert finish.reason is FinishReason.FAILED
                assert isinstance(finish.error, LinkRefused)
        assert node.sessions == 0
        with pytest.raises(LinkRefused, match="took over the client id"):
            node.generate(wanting(9))


# Other people's messages


async def test_garbage_from_workers_disturbs_nobody() -> None:
    async with world() as (broker, (daemon,), node), broker.link(link_to("rogue")) as rogue:
        await rogue.wait_up()
        daemon.engine.gate.clear()
        generation = node.generate(wanting(1))
        await until(lambda: generation.machine.worker == "w1" and node.directory.any)
        of_an_edge = CODEC.encode(Close(1, 1, 0, CloseReason.DONE))
        noise = [*hostile(), of_an_edge]  # of these only the verdict, for no session, can be read
        for payload in noise:
            await rogue.publish("f1/v/edge", payload, qos=1)
        for payload in (b"{", b'{"state": "gone"}', b"[" * 10_000, broker.retained("f1/e/edge") or b""):
            await rogue.publish("f1/w/w1", payload, qos=1)
        await until(lambda: node.malformed == len(noise) - 1 + 4)
        daemon.engine.gate.set()
        assert (await read(generation))[0] == alone(generation.request)
        assert generation.machine.counters.reopens == 0


# Texts that cannot go on, which cost no other text anything


@pytest.mark.parametrize(
    ("more", "kind"),
    [({"limit": 2**21}, LocalProtocolError), ({"prompt": (1,) * (MAX_PROMPT_TOKENS + 1)}, UsageError)],
)
async def test_a_request_that_no_message_can_hold_fails_alone(
    more: dict[str, Any], kind: type[FlexSpecError]
) -> None:
    async with world() as (_, _daemons, node):
        healthy = node.generate(wanting(1))
        bad = node.generate(replace(wanting(2), **more))
        _, finish = await read(bad)
        assert finish.reason is FinishReason.FAILED
        assert isinstance(finish.error, kind)
        assert (await read(healthy))[0] == alone(healthy.request)
        await check(node, [wanting(3)])
        assert node.sessions == 0


async def test_a_broker_that_takes_no_such_message_is_named() -> None:
    with PrivateBroker(BrokerSettings(port=0, max_packet=20_000)) as broker:
        async with edge_at(links_to(broker)) as node:
            prompt = tuple(random.Random(1).choices(range(40_000), k=12_000))
            _, finish = await read(node.generate(replace(wanting(1), prompt=prompt)))
    assert finish.reason is FinishReason.FAILED
    assert isinstance(finish.error, PublishRefused)
    assert finish.error.reason_code == 0x95


async def test_a_worker_that_is_told_to_leave_while_its_link_is_down_takes_nothing_more() -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1", drain=4 * PATIENCE) as leaving, edge_at(broker.link) as node:
        leaving.engine.gate.clear()
        held = node.generate(wanting(0))
        await until(lambda: held.machine.worker == "w1")
        broker.stop()
        leaving.worker.stop()
        await until(lambda: leaving.worker.machine.draining)
        broker.start()
        async with worker_at(broker.link, "w2"):
            await until(lambda: broker.retained("f1/w/w1") is not None)
            await asyncio.gather(*(check(node, [wanting(number)]) for number in range(1, 9)))
            assert leaving.worker.machine.counters.busy == 0
        leaving.engine.gate.set()
        assert (await read(held))[0] == alone(held.request)


async def test_that_nobody_serves_a_version_is_told_to_the_texts_that_ask_for_it() -> None:
    """A message that is lost belongs to one text, whichever topic it was for."""
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon, edge_at(broker.link) as node:
        daemon.engine.gate.clear()
        here = node.generate(wanting(1))
        await until(lambda: here.machine.worker == "w1")
        elsewhere = node.generate(replace(wanting(2), version="other", waits=Waits.of(0.3)))
        _, finish = await read(elsewhere)
        assert isinstance(finish.error, WorkerError)
        assert finish.error.message == "no worker serves other"
        assert here.machine.finished is None
        daemon.engine.gate.set()
        assert (await read(here))[0] == alone(here.request)
        assert here.machine.counters.opens == 1


# Names


async def test_session_numbers_do_not_come_again() -> None:
    broker = MemoryBroker()
    async with edge_at(broker.link) as node:
        generations = [node.generate(wanting(number)) for number in range(50)]
        numbers = {generation.session for generation in generations}
        assert len(numbers) == 50
        assert all(0 < number < 2**32 for number in numbers)


async def test_an_edge_without_a_chosen_name_leaves_no_status() -> None:
    broker = MemoryBroker()

    def state(edge: str) -> str:
        payload = broker.retained(f"f1/e/{edge}")
        return "" if payload is None else CODEC.decode_status(payload, EdgeStatus).state

    for name, ephemeral in (("drawn", True), ("chosen", False)):
        async with edge_at(broker.link, name, ephemeral=ephemeral):
            assert state(name) == "online"
    assert (state("drawn"), state("chosen")) == ("", "gone")


async def test_an_edge_that_waits_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker()
    async with worker_at(broker.link, "w1") as daemon, edge_at(broker.link) as node:
        await check(node, [wanting(1)])
        daemon.engine.gate.clear()
        generation = node.generate(wanting(2))
        await until(lambda: len(daemon.worker.machine) == 1)
        looks = 0
        look = generation.machine.next_tick

        def counted() -> float | None:
            nonlocal looks
            looks += 1
            return look()

        monkeypatch.setattr(generation.machine, "next_tick", counted)
        await asyncio.sleep(0.3)  # the window of the measurement: a few polls of a silent worker fit in
        assert looks < 40
        daemon.engine.gate.set()
        await read(generation)


def test_only_a_workers_status_is_taken_for_one() -> None:
    assert topics.worker_of_status("f1/w/w1") == "w1"
    for other in ("f1/v/w1", "f1/w/w1/x", "f2/w/w1", "f1/w"):
        assert topics.worker_of_status(other) is None


@pytest.mark.parametrize("temperature", [0.0, 0.7])
async def test_a_prediction_speeds_a_text_up_and_never_changes_it(temperature: float) -> None:
    """It is drafted from the first token on; where it is wrong, the text is the target's all the same."""
    broker, drafter = MemoryBroker(), PromptLookupDrafter(max_context=500)
    plain = wanting(1, limit=60, plan=Plan(8, 1, 1))
    plain = replace(plain, sampling=msgspec.structs.replace(plain.sampling, temperature=temperature))
    text = alone(plain)
    edited = (*text[:20], 7, 7, 7, *text[23:])
    predictions = [(), text, edited, tuple(reversed(text)), (3,)]
    async with worker_at(broker.link, "w1"), edge_at(broker.link, drafter=drafter) as node:
        generations = await check(node, [replace(plain, prediction=one) for one in predictions])
    rounds = [generation.machine.counters.rounds for generation in generations]
    assert rounds[1] <= 60 / 3
    assert rounds[1] <= rounds[2] < rounds[0] / 2
    assert generations[1].machine.counters.looked_up_accepted >= 40
