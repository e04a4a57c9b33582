"""The inbox: when it is full it drops what came from whoever sent most, and never a change of the link alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import LinkError
from flexspec_mq.transport.base import Inbound, LinkCounters, LinkDownEvent, LinkUpEvent
from flexspec_mq.transport.inbox import MAX_LINK_EVENTS, Inbox


async def taken(inbox: Inbox) -> list[Inbound]:
    inbox.close()
    return [event async for event in inbox.events() if isinstance(event, Inbound)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 60)), max_size=60), st.integers(1, 12))
async def test_bounds_hold_and_order_stays(sent: list[tuple[str, int]], capacity: int) -> None:
    counters = LinkCounters()
    inbox = Inbox(capacity, counters, most_bytes=100)
    messages = [Inbound(topic, bytes(size)) for topic, size in sent]
    for message in messages:
        inbox.put_message(message)
        assert len(inbox) <= capacity
    got = await taken(inbox)
    assert sum(len(message.payload) for message in got) <= 100
    assert len(got) + counters.inbound_dropped == len(messages)
    places = [next(at for at, message in enumerate(messages) if message is kept) for kept in got]
    assert places == sorted(places)
    for topic in "abc":  # of each topic the newest are here, and all of one that sent no more than its share
        mine = [at for at, message in enumerate(messages) if message.topic == topic]
        kept = [at for at in places if messages[at].topic == topic]
        assert kept == mine[len(mine) - len(kept) :]
        size = sum(len(messages[at].payload) for at in mine)
        assert kept == mine or len(mine) > capacity // 3 or size > 100 // 3


async def test_link_events_survive_a_flood_of_messages_and_still_alternate() -> None:
    counters = LinkCounters()
    inbox = Inbox(5, counters)
    for i in range(MAX_LINK_EVENTS):
        inbox.put_change(LinkUpEvent(i))
        inbox.put_message(Inbound("t", bytes((i,))))
        inbox.put_change(LinkDownEvent(str(i)))
    inbox.put_message(Inbound("t", b"last"))
    inbox.close()
    events = [event async for event in inbox.events()]
    changes = [event for event in events if not isinstance(event, Inbound)]
    assert len(changes) == MAX_LINK_EVENTS
    assert [type(event) for event in changes] == [LinkUpEvent, LinkDownEvent] * (MAX_LINK_EVENTS // 2)
    assert changes[-1] == LinkDownEvent(str(MAX_LINK_EVENTS - 1))
    payloads = [event.payload for event in events if isinstance(event, Inbound)]
    assert payloads == [*(bytes((i,)) for i in range(MAX_LINK_EVENTS - 4, MAX_LINK_EVENTS)), b"last"]
    assert counters.inbound_dropped == MAX_LINK_EVENTS + 1 - 5


async def test_a_failure_comes_after_the_events_that_wait() -> None:
    inbox = Inbox(5, LinkCounters())
    inbox.put_message(Inbound("t", b"x"))
    inbox.close(LinkError("over"))
    events = inbox.events()
    assert await anext(events) == Inbound("t", b"x")
    with pytest.raises(LinkError, match="over"):
        await anext(events)
