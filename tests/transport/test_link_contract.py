"""Contract of every link, tested with the in-memory broker and with Mosquitto."""

import asyncio

import pytest

from flexspec_mq.errors import LinkDown, LinkRefused, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    Inbound,
    LinkDownEvent,
    LinkUpEvent,
    Outbound,
    Subscription,
)
from tests.transport.conftest import World
from tests.transport.reading import PATIENCE, Reader


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_a_numbered_stream_arrives_complete_in_order_and_once(world: World, qos: int) -> None:
    wanted = (Subscription(f"{world.topic}/+", 2),)
    async with (
        world.linked(world.settings("reader", subscriptions=wanted)) as reading,
        world.linked(world.settings("writer")) as writing,
    ):
        sent = [i.to_bytes(2, "big") for i in range(300)]
        for payload in sent:
            await writing.publish(f"{world.topic}/x", payload, qos=qos)
        reader = Reader(reading)
        assert await reader.payloads(len(sent)) == sent
        assert {e.qos for e in reader.seen if isinstance(e, Inbound)} == {qos}
        assert writing.counters.published == reading.counters.received == len(sent)


async def test_subscriptions_stand_before_the_birth_and_both_before_the_link_is_up(world: World) -> None:
    """A birth that is not retained reaches its sender, and so does a message published at the very moment of Up."""
    status, inbound = f"{world.topic}/status", f"{world.topic}/in"
    births = Outbound(inbound, b"me", 1), Outbound(status, b"online", 1, True)
    settings = world.settings("one", subscriptions=(Subscription(inbound),), birth=lambda: births)
    async with world.link(settings) as one:
        reader = Reader(one)
        assert await reader.wait_for(LinkUpEvent) == LinkUpEvent(1)
        async with world.link(world.settings("two", subscriptions=(Subscription(status),))) as two:
            assert await Reader(two).wait_for(Inbound) == Inbound(status, b"online", 1, retain=True)
            await two.wait_up(PATIENCE)
            await two.publish(f"{world.topic}/in", b"hello", qos=1)
            while await reader.payload() != b"hello":
                pass
        got = [event.payload for event in reader.seen if isinstance(event, Inbound)]
        assert got == [b"me", b"hello"]


async def test_what_is_asked_for_while_the_birth_is_under_way_stands_when_the_link_is_up(
    world: World,
) -> None:
    late: list[asyncio.Task[None]] = []

    def birth() -> tuple[Outbound, ...]:
        late.append(asyncio.create_task(link.subscribe(f"{world.topic}/late")))
        late.append(asyncio.create_task(link.unsubscribe(f"{world.topic}/early")))
        return (Outbound(f"{world.topic}/status", b"online", 1, True),)

    early = Subscription(f"{world.topic}/early")
    async with world.link(world.settings("late", subscriptions=(early,), birth=birth)) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        await asyncio.gather(*late)
        await link.publish(f"{world.topic}/late", b"x", qos=1)
        assert await reader.payload() == b"x"
        with pytest.raises(PublishRefused):
            await link.publish(f"{world.topic}/early", b"x", qos=1)


async def test_nobody_subscribes_is_told_at_qos_1_and_not_for_retained(world: World) -> None:
    async with world.linked(world.settings("lonely")) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish(f"{world.topic}/nobody", b"x", qos=1)
        assert refused.value.reason_code == NO_SUBSCRIBERS
        await link.publish(f"{world.topic}/nobody", b"x", qos=0)
        await link.publish(f"{world.topic}/kept", b"x", qos=1, retain=True)
        await link.publish(f"{world.topic}/kept", b"", qos=1, retain=True)
        assert link.counters.published == 3


async def test_a_payload_beyond_the_brokers_limit_is_refused_and_the_link_stays(world: World) -> None:
    async with world.linked(world.settings("big")) as link:
        with pytest.raises(PublishRefused) as refused:
            await link.publish(f"{world.topic}/x", bytes(300_000), qos=0)
        assert refused.value.reason_code == PACKET_TOO_LARGE
        assert link.is_up
        assert link.counters.disconnects == 0


async def test_a_lost_connection_comes_back_with_subscriptions_and_birth(world: World) -> None:
    births: list[int] = []

    def birth() -> tuple[Outbound, ...]:
        births.append(len(births))
        return (Outbound(f"{world.topic}/status", b"%d" % births[-1], 1, True),)

    async with (
        world.link(
            world.settings("fragile", subscriptions=(Subscription(f"{world.topic}/a"),), birth=birth)
        ) as link,
        world.link(world.settings("peer")) as peer,
    ):
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        await link.subscribe(f"{world.topic}/b")
        await link.subscribe(f"{world.topic}/c")
        await link.unsubscribe(f"{world.topic}/c")
        await peer.wait_up(PATIENCE)
        world.cut()
        assert (await reader.wait_for(LinkDownEvent)).reason
        assert await reader.wait_for(LinkUpEvent) == LinkUpEvent(2)
        await peer.wait_up(PATIENCE)
        for level in ("a", "b"):
            await peer.publish(f"{world.topic}/{level}", level.encode(), qos=1)
        assert await reader.payloads(2) == [b"a", b"b"]
        with pytest.raises(PublishRefused):
            await peer.publish(f"{world.topic}/c", b"c", qos=1)
        assert births == [0, 1]
        assert link.counters.connects == 2
        assert link.counters.disconnects == 1


async def test_publishing_while_down_fails_at_once(world: World) -> None:
    async with world.link(world.settings("down")) as link:
        with pytest.raises(LinkDown):
            await link.publish(f"{world.topic}/x", b"x", qos=1)


async def test_the_will_goes_out_when_the_connection_breaks_and_when_we_leave(world: World) -> None:
    status = f"{world.topic}/status"

    async def watch_one_life(reader: Reader, *, cut: bool) -> None:
        settings = world.settings(
            "mortal",
            will=Outbound(status, b"gone", 1, retain=True),
            birth=lambda: (Outbound(status, b"online", 1, True),),
        )
        async with world.linked(settings):
            assert await reader.payload() == b"online"
            if cut:
                world.cut()
                # The reader's own connection breaks too, so it may find only what is retained by then.
                while await reader.payload() != b"online":
                    pass
        while await reader.payload() != b"gone":
            pass

    async with world.link(world.settings("watcher", subscriptions=(Subscription(status),))) as watcher:
        reader = Reader(watcher)
        await reader.wait_for(LinkUpEvent)
        await watch_one_life(reader, cut=False)
        await watch_one_life(reader, cut=True)


async def test_a_persistent_session_keeps_messages_of_an_outage(world: World) -> None:
    settings = world.settings("edge", session_expiry=60, subscriptions=(Subscription(f"{world.topic}/v", 1),))
    async with world.linked(world.settings("worker")) as worker:
        async with world.linked(settings) as edge:
            pass
        await worker.publish(f"{world.topic}/v", b"while away", qos=1)
        async with world.link(settings) as edge:
            assert await Reader(edge).payload() == b"while away"


async def test_a_clean_session_forgets(world: World) -> None:
    status = f"{world.topic}/status"
    settings = world.settings(
        "edge", subscriptions=(Subscription(f"{world.topic}/v", 1),), will=Outbound(status, b"gone", 1)
    )
    async with world.linked(world.settings("worker", subscriptions=(Subscription(status),))) as worker:
        async with world.linked(settings):
            pass
        assert await Reader(worker).payload() == b"gone"  # the broker has taken note of the end
        with pytest.raises(PublishRefused):
            await worker.publish(f"{world.topic}/v", b"while away", qos=1)


async def test_a_share_gives_each_message_to_one_member_in_turn(world: World) -> None:
    shared = (Subscription(f"$share/w/{world.topic}/o/+", 1),)
    async with (
        world.link(world.settings("w1", subscriptions=shared)) as one,
        world.link(world.settings("w2", subscriptions=shared)) as two,
        world.link(world.settings("edge")) as edge,
    ):
        for link in (one, two, edge):
            await link.wait_up(PATIENCE)
        for i in range(10):
            await edge.publish(f"{world.topic}/o/e", bytes((i,)), qos=1)
        first, second = await Reader(one).payloads(5), await Reader(two).payloads(5)
        assert sorted([*first, *second]) == [bytes((i,)) for i in range(10)]


async def test_retained_messages_expire(world: World) -> None:
    topic = f"{world.topic}/r"
    async with world.linked(world.settings("writer")) as writer:
        await writer.publish(topic, b"short", qos=1, retain=True, expiry=0.3)
        await writer.publish(f"{topic}/long", b"long", qos=1, retain=True, expiry=60)
        found = {b"short"}
        async with asyncio.timeout(PATIENCE):
            while b"short" in found:
                found = set()
                async with world.link(
                    world.settings("reader", subscriptions=(Subscription(f"{topic}/#"),))
                ) as reading:
                    reader = Reader(reading)
                    while b"long" not in found:
                        found.add(await reader.payload())
        await writer.publish(f"{topic}/long", b"", qos=1, retain=True)


async def test_the_newer_link_with_a_client_id_wins_and_the_older_fails_loudly(world: World) -> None:
    settings = world.settings("twin")
    async with world.linked(settings) as old:
        reader = Reader(old)
        async with world.linked(settings) as new:
            with pytest.raises(LinkRefused, match="took over") as refused:
                await reader.to_the_end()
            assert refused.value.hint
            assert new.is_up
            with pytest.raises(LinkRefused):
                await old.publish(f"{world.topic}/x", b"x")


async def test_reconnect_makes_a_new_connection_at_once(world: World) -> None:
    async with world.link(world.settings("prober")) as link:
        reader = Reader(link)
        await reader.wait_for(LinkUpEvent)
        link.reconnect("silence")
        assert await reader.wait_for(LinkDownEvent) == LinkDownEvent("silence")
        assert (await reader.wait_for(LinkUpEvent)).connection == 2


async def test_after_the_context_nothing_works_and_events_end(world: World) -> None:
    async with world.linked(world.settings("brief")) as link:
        pass
    events = [event async for event in link.events()]
    assert events == [LinkUpEvent(1), LinkDownEvent("the link was closed")]
    with pytest.raises(LinkDown, match="closed"):
        await link.publish(f"{world.topic}/x", b"x")


async def test_a_birth_with_a_bug_is_not_swallowed(world: World) -> None:
    def birth() -> tuple[Outbound, ...]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with world.linked(world.settings("buggy", birth=birth)):
            pass
