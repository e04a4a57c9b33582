"""The tools that break things break what they say; the in-memory broker beyond the contract of all links."""

import asyncio
import random

import pytest

from flexspec_mq.errors import LinkDown, LinkError, PublishRefused
from flexspec_mq.transport.base import LinkDownEvent, LinkSettings, LinkUpEvent, Subscription
from lab.testbed.faults import Cut, Delay, Direction, Drop, Duplicate, Fault, Hop, Scope, through
from lab.testbed.memory_broker import MemoryBroker
from tests.transport.reading import PATIENCE, Reader

UP = Hop(Direction.UP, "edge", "f1/d/w/edge", b"x", lambda _reason: None)
DOWN = Hop(Direction.DOWN, "edge", "f1/v/edge", b"x", lambda _reason: None)


def test_delay_stays_within_its_jitter_and_reorders() -> None:
    fault = Delay(1.0, random.Random(1), jitter=0.5)
    delays = [fault.arrivals(UP)[0] for _ in range(1000)]
    assert 0.5 <= min(delays) < 0.6
    assert 1.4 < max(delays) <= 1.5
    assert delays != sorted(delays)


def test_cut_calls_for_the_end_at_every_nth() -> None:
    cuts: list[str] = []
    hop = Hop(Direction.UP, "edge", "t", b"", cuts.append)
    fault = Cut(3)
    assert [len(fault.arrivals(hop)) for _ in range(7)] == [1, 1, 0, 1, 1, 0, 1]
    assert len(cuts) == fault.hits == 2


@pytest.mark.parametrize(
    ("scope", "up", "down"),
    [
        (Scope(), True, True),
        (Scope(direction=Direction.UP), True, False),
        (Scope(topic="f1/v/+"), False, True),
        (Scope(client_id="other"), False, False),
    ],
)
def test_scope_limits_a_fault(scope: Scope, up: bool, down: bool) -> None:
    drop = Drop(1.0, random.Random(1), scope)
    assert (drop.arrivals(UP) == ()) is up
    assert (drop.arrivals(DOWN) == ()) is down


def test_faults_in_a_row_act_on_every_copy() -> None:
    rng = random.Random(1)
    row: list[Fault] = [Duplicate(1.0, rng), Delay(0.5, rng), Duplicate(1.0, rng)]
    assert through(row, UP) == [0.5] * 4
    assert through([Drop(1.0, rng), *row], UP) == []
    assert through([], UP) == [0.0]


async def test_faults_act_on_a_stream_while_it_flows() -> None:
    """Dropped both ways: the numbered stream has holes; duplicates: repeats; without faults: neither."""
    broker, rng = MemoryBroker(), random.Random(7)
    wanted = (Subscription("s/+", 1),)
    async with (
        broker.link(LinkSettings(client_id="r", subscriptions=wanted)) as reading,
        broker.link(LinkSettings(client_id="w")) as writing,
    ):
        await reading.wait_up(PATIENCE)
        await writing.wait_up(PATIENCE)
        reader = Reader(reading)

        async def stream(*faults: Fault) -> list[int]:
            broker.faults[:] = faults
            for i in range(200):
                await writing.publish("s/x", bytes((i,)), qos=1)
            broker.faults.clear()
            await writing.publish("s/x", b"end", qos=1)
            got = []
            while (payload := await reader.payload()) != b"end":
                got.append(payload[0])
            return got

        assert await stream() == list(range(200))
        got = await stream(Drop(0.5, rng, Scope(direction=Direction.DOWN)))
        assert got == sorted(set(got))
        assert 60 < len(got) < 140
        repeated = await stream(Duplicate(1.0, rng, Scope(direction=Direction.UP)))
        assert repeated == [i for i in range(200) for _ in range(2)]


def settings_for(client: str, *filters: str, expiry: int = 0) -> LinkSettings:
    wanted = tuple(Subscription(f, 1) for f in filters)
    return LinkSettings(client_id=client, subscriptions=wanted, session_expiry=expiry)


async def test_an_absent_member_of_a_share_keeps_its_turn_and_a_share_gets_nothing_retained() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("edge")) as edge:
        await edge.wait_up(PATIENCE)
        await edge.publish("o/kept", b"kept", qos=1, retain=True)
        async with broker.link(settings_for("w1", "$share/w/o/+")) as here:
            await here.wait_up(PATIENCE)
            away_settings = settings_for("w2", "$share/w/o/+", expiry=60)
            async with broker.link(away_settings) as away:
                await away.wait_up(PATIENCE)
            for i in range(4):
                await edge.publish("o/e", bytes((i,)), qos=1)
            here_got = await Reader(here).payloads(2)
            async with broker.link(away_settings) as back:
                away_got = await Reader(back).payloads(2)
            assert sorted([*here_got, *away_got]) == [bytes((i,)) for i in range(4)]


async def test_a_stopped_broker_is_given_up_on_request() -> None:
    broker = MemoryBroker()
    broker.stop()
    async with broker.link(LinkSettings(client_id="cli", give_up_after=0.02)) as link:
        with pytest.raises(LinkError, match="not running"):
            await link.wait_up(PATIENCE)


async def test_a_crash_forgets_and_an_orderly_stop_does_not() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("link")) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        await link.publish("r", b"kept", qos=1, retain=True)
        broker.stop()
        await reader.wait_for(LinkDownEvent)
        with pytest.raises(LinkDown):
            await link.publish("r", b"x")
        with pytest.raises(LinkDown, match="within"):
            await link.wait_up(0.01)
        broker.start()
        await reader.wait_for(LinkUpEvent)
        assert broker.retained("r") == b"kept"
        broker.stop(forget=True)
        broker.start()
        await reader.wait_for(LinkUpEvent)
        assert broker.retained("r") is None


async def test_a_session_that_is_over_is_forgotten() -> None:
    broker = MemoryBroker()
    async with broker.link(settings_for("edge", "v", expiry=1)) as link:
        await link.wait_up(PATIENCE)
    async with broker.link(settings_for("worker")) as worker:
        await worker.wait_up(PATIENCE)
        await worker.publish("v", b"kept", qos=1)
        await asyncio.sleep(1.0)
        with pytest.raises(PublishRefused):
            await worker.publish("v", b"x", qos=1)
