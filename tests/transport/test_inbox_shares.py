"""A full inbox drops what came from whoever sent most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.transport.base import Inbound, LinkCounters
from flexspec_mq.transport.inbox import Inbox


async def taken(inbox: Inbox) -> list[Inbound]:
    inbox.close()
    return [event async for event in inbox.events() if isinstance(event, Inbound)]


async def test_one_sender_cannot_fill_it_with_messages() -> None:
    counters = LinkCounters()
    inbox = Inbox(10, counters)
    for number in range(3):
        inbox.put_message(Inbound("honest", bytes((number,))))
    for number in range(100):
        inbox.put_message(Inbound("evil", bytes((number,))))
    inbox.put_message(Inbound("late", b""))
    got = await taken(inbox)
    assert [one.payload for one in got if one.topic == "honest"] == [b"\0", b"\1", b"\2"]
    assert [one.payload[0] for one in got if one.topic == "evil"] == list(range(94, 100))  # its newest
    assert got[-1].topic == "late"
    assert counters.inbound_dropped == 94


async def test_one_sender_cannot_fill_it_with_bytes() -> None:
    inbox = Inbox(1024, LinkCounters(), most_bytes=1_000_000)
    inbox.put_message(Inbound("honest", b"draft"))
    for _ in range(1024):
        inbox.put_message(Inbound("evil", bytes(256_000)))
    got = await taken(inbox)
    assert [one.topic for one in got] == ["honest", "evil", "evil", "evil"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=60), st.integers(1, 8))
async def test_bounds_hold_and_order_stays(sent: list[tuple[str, int]], capacity: int) -> None:
    counters = LinkCounters()
    inbox = Inbox(capacity, counters, most_bytes=100)
    messages = [Inbound(topic, bytes(size)) for topic, size in sent]
    for message in messages:
        inbox.put_message(message)
        assert len(inbox) <= capacity
    got = await taken(inbox)
    assert sum(len(one.payload) for one in got) <= 100
    assert len(got) + counters.inbound_dropped == len(messages)
    places = [next(at for at, one in enumerate(messages) if one is message) for message in got]
    assert places == sorted(places)
    for topic in "abc":  # of each topic the newest are here
        mine = [at for at, one in enumerate(messages) if one.topic == topic]
        kept = [at for at in places if messages[at].topic == topic]
        assert kept == mine[len(mine) - len(kept) :]
