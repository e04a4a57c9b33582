"""The small parts: filters, settings, the retry, the queue before a link that may be slow or down, and the inbox."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.daemon import tasks
from flexspec_mq.daemon.retry import Backoff, Waiting, retrying
from flexspec_mq.errors import LinkDown, LinkError, PublishRefused
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    Inbound,
    LinkCounters,
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
)
from flexspec_mq.transport.filters import covers, split_share
from flexspec_mq.transport.inbox import MAX_LINK_EVENTS, Inbox
from flexspec_mq.transport.publish_queue import PublishQueue
from tests.transport.reading import PATIENCE


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a/+", "a/b", True),
        ("a/+", "a/+", True),
        ("a/b", "a/+", False),
        ("a/+", "a/#", False),
        ("a/#", "a/#", True),
        ("a/#", "a/+/c", True),
        ("a/+", "#", False),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b", False),
        ("#", "$SYS/x", False),
        ("$SYS/#", "$SYS/+", True),
    ],
)
def test_filters_cover_filters(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


def test_shares_are_split() -> None:
    assert split_share("$share/w/f1/o/v/+") == ("w", "f1/o/v/+")
    assert split_share("f1/o") == (None, "f1/o")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(LinkSettings(client_id="x", password="secret"))  # noqa: S106


async def test_retrying_waits_longer_says_so_and_stops_at_success() -> None:
    waits: list[Waiting] = []
    calls = 0

    async def attempt() -> str:
        nonlocal calls
        calls += 1
        if calls < 6:
            raise LinkDown(f"no {calls}")
        return "there"

    backoff = Backoff(first=0.001, top=0.004)
    result = await retrying(attempt, what="finding it", on=LinkDown, backoff=backoff, on_wait=waits.append)
    assert result == "there"
    assert [w.attempt for w in waits] == [1, 2, 3, 4, 5]
    bounds = [0.001, 0.002, 0.004, 0.004, 0.004]
    assert all(0.0 <= w.delay <= bound for w, bound in zip(waits, bounds, strict=True))
    assert str(waits[0]).startswith("finding it: no 1; attempt 1 failed, next in ")


async def test_retrying_lets_other_errors_through_and_can_be_cancelled() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    async def down() -> None:
        raise LinkDown("no")

    waits: list[Waiting] = []
    with pytest.raises(ZeroDivisionError):
        await retrying(broken, what="x", on=LinkDown, backoff=Backoff(), on_wait=waits.append)
    assert not waits
    slow = Backoff(first=1000.0, top=1000.0)
    task = asyncio.create_task(retrying(down, what="x", on=LinkDown, backoff=slow, on_wait=waits.append))
    while not waits:  # noqa: ASYNC110  two turns of the loop
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_jitter_is_full_and_bounded() -> None:
    backoff = Backoff(first=1.0, top=8.0)
    for attempt, bound in ((1, 1.0), (3, 4.0), (4, 8.0), (10_000, 8.0)):
        delays = [backoff.delay(attempt) for _ in range(500)]
        # 500 uniform draws all miss a tenth of the range with probability 0.9**500 < 1e-22.
        assert min(delays) < 0.1 * bound
        assert 0.9 * bound < max(delays) <= bound


class FakeLink:
    """Notes what is published. `gate` holds every publish back; `error` is what they raise."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.sent: list[str] = []
        self.waiting = 0
        self.most_waiting = 0

    async def send(self, message: Outbound) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        self.sent.append(message.topic)


@asynccontextmanager
async def running(queue: PublishQueue, link: FakeLink) -> AsyncIterator[asyncio.Task[None]]:
    async with tasks.running(queue.run(link), "queue") as task:  # type: ignore[arg-type]
        yield task
    assert link.waiting == 0, "a publish outlived the queue"


def numbered(count: int, qos: int) -> list[Outbound]:
    return [Outbound(str(number), b"", qos) for number in range(count)]


@pytest.mark.parametrize("qos", [0, 1])
async def test_all_is_published_in_order(qos: int) -> None:
    link, queue = FakeLink(), PublishQueue(outstanding=4)
    async with running(queue, link):
        for message in numbered(50, qos):
            queue.put(message)
        assert await queue.flush(PATIENCE)
        assert link.sent == [str(number) for number in range(50)]
        assert link.most_waiting <= (4 if qos else 1)
        assert await queue.flush(0.0), "nothing waits any more"


@pytest.mark.parametrize(("qos", "outstanding"), [(0, 1), (1, 4)])
async def test_acknowledgements_may_be_outstanding_up_to_a_bound_and_flush_waits_for_them(
    qos: int, outstanding: int
) -> None:
    link, queue = FakeLink(), PublishQueue(outstanding=4)
    link.gate.clear()
    async with running(queue, link):
        for message in numbered(50, qos):
            queue.put(message)
        assert not await queue.flush(0.05)
        assert link.waiting == outstanding
        link.gate.set()
        assert await queue.flush(PATIENCE)
    assert len(link.sent) == 50


async def test_on_overflow_the_oldest_goes_and_is_counted() -> None:
    link, queue = FakeLink(), PublishQueue(bound=10)
    for message in numbered(25, 0):
        queue.put(message)
    assert (len(queue), queue.dropped) == (10, 15)
    async with running(queue, link):
        assert await queue.flush(PATIENCE)
    assert link.sent == [str(number) for number in range(15, 25)]


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    "error", [LinkDown("away"), PublishRefused("nobody", reason_code=NO_SUBSCRIBERS)], ids=["down", "refused"]
)
async def test_what_is_lost_is_told_to_its_owner(qos: int, error: LinkDown | PublishRefused) -> None:
    told: list[tuple[str, LinkDown | PublishRefused]] = []
    link = FakeLink()
    queue = PublishQueue()
    link.error = error
    async with running(queue, link):
        for message in numbered(3, qos):
            queue.put(message, lambda why, topic=message.topic: told.append((topic, why)))  # type: ignore[misc]
        queue.put(Outbound("nobody wants to know", b"", qos))
        assert await queue.flush(PATIENCE)
    assert told == [("0", error), ("1", error), ("2", error)]
    assert queue.lost == 4


@pytest.mark.parametrize("qos", [0, 1])
async def test_a_link_that_fails_for_good_ends_the_loop(qos: int) -> None:
    link, queue = FakeLink(), PublishQueue()
    link.error = LinkError("gave up")
    async with running(queue, link) as task:
        queue.put(Outbound("x", b"", qos))
        with pytest.raises(LinkError, match="gave up"):
            await asyncio.wait_for(task, PATIENCE)


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
