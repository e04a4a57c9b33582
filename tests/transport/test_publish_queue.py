"""The queue between code that decides and a link that may be slow, down or broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flexspec_mq.errors import LinkDown, LinkError, PublishRefused
from flexspec_mq.transport.base import NO_SUBSCRIBERS, Outbound
from flexspec_mq.transport.publish_queue import PublishQueue

PATIENCE = 30.0


class FakeLink:
    """Notes what is published. `gate` holds every publish back; `error` is what they raise."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.sent: list[str] = []
        self.waiting = 0
        self.most_waiting = 0

    async def publish(self, topic: str, payload: bytes, **how: Any) -> None:
        assert (payload, set(how)) == (b"", {"qos", "retain", "expiry"})
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error
        self.sent.append(topic)


@asynccontextmanager
async def running(queue: PublishQueue, link: FakeLink) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(queue.run(link))  # type: ignore[arg-type]
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
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
