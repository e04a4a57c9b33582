"""Blobs over a link that is cut, from holders that are silent, gone, or send something else."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq import topics, waiting
from flexspec_mq.codec.blobs import blob_name, decode_blob, encode_blob
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.transport.base import Inbound, Subscription
from flexspec_mq.transport.blobs import BlobFetch, BlobHolder
from flexspec_mq.transport.link import Link
from schemas.blobs import MAX_PIECE, BlobPiece, BlobRequest
from tests.transport.conftest import World
from tests.transport.reading import PATIENCE

BLOB = os.urandom(20 * MAX_PIECE + 7)
NAME = blob_name(BLOB)
MOST = 1_000_000


async def nothing_else(_seconds: float) -> bool:
    return True


async def hand_on(link: Link, take: Callable[[str, bytes], None]) -> None:
    async for event in link.events():
        if isinstance(event, Inbound):
            take(event.topic, event.payload)


@asynccontextmanager
async def holding(world: World, name: str, blobs: dict[str, bytes]) -> AsyncIterator[BlobHolder]:
    """A holder on a link of its own, as a worker runs one."""
    name = f"{world.topic}-{name}"
    holder = BlobHolder(blobs, nothing_else)
    wanted = Subscription(topics.blob_request_topic(name, "+"))
    async with (
        world.linked(world.settings(name, subscriptions=(wanted,))) as link,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(holder.run(link)),
            group.create_task(hand_on(link, lambda topic, data: holder.ask(topic.rpartition("/")[2], data))),
        ]
        yield holder
        for task in tasks:
            task.cancel()


async def fetched(
    world: World,
    holders: Iterable[str],
    name: str = NAME,
    most: int = MOST,
    seen: Callable[[int], None] = lambda _: None,
) -> bytes | None:
    """Bytes that a device of this world gets, asking the holders in turn."""
    order = iter([f"{world.topic}-{holder}" for holder in holders])
    asker = f"{world.topic}-device"
    into = BytesIO()
    fetch = BlobFetch(asker, name, most, into, lambda: next(order, None))

    def take(_topic: str, payload: bytes) -> None:
        fetch.take(payload)
        seen(len(fetch))

    async with world.linked(
        world.settings("device", subscriptions=(Subscription(topics.blob_topic(asker)),))
    ) as link:
        reading = asyncio.create_task(hand_on(link, take))
        try:
            async with asyncio.timeout(PATIENCE):
                return into.getvalue() if await fetch.run(link) else None
        finally:
            reading.cancel()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CONNECT", 0.3)


async def test_a_blob_arrives_whole_through_a_link_that_is_cut_again_and_again(world: World) -> None:
    cuts = iter([3 * MAX_PIECE, 9 * MAX_PIECE, 17 * MAX_PIECE])
    goal = next(cuts)
    most = 0

    def seen(there: int) -> None:
        nonlocal goal, most
        assert there >= most  # what is there is not fetched again
        most = there
        if there >= goal:
            goal = next(cuts, len(BLOB) + 1)
            world.cut()

    async with holding(world, "w", {NAME: BLOB}):
        assert await fetched(world, ["w"] * 20, seen=seen) == BLOB
    assert goal > len(BLOB)


async def test_whoever_holds_it_goes_on_where_another_one_was_silent(world: World) -> None:
    async with holding(world, "other", {}), holding(world, "w", {NAME: BLOB}):
        assert await fetched(world, ["gone", "other", "w"]) == BLOB
        assert await fetched(world, ["gone"]) is None


@pytest.mark.parametrize(
    ("given", "most", "why"),
    [(BLOB[:-1] + b"x", MOST, "another hash"), (BLOB, len(BLOB) - 1, "more than")],
    ids=["hash", "size"],
)
async def test_something_else_is_thrown_away(world: World, given: bytes, most: int, why: str) -> None:
    async with holding(world, "w", {NAME: given}):
        with pytest.raises(RemoteProtocolError, match=why):
            await fetched(world, ["w"], most=most)


async def test_a_device_gets_no_more_than_four_times_all_blobs_a_day(world: World) -> None:
    async with holding(world, "w", {NAME: BLOB}):
        for _ in range(4):
            assert await fetched(world, ["w"]) == BLOB
        assert await fetched(world, ["w"]) is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 100), st.integers(90, 110), st.booleans())))
def test_pieces_in_any_order_never_make_anything_but_the_beginning_of_a_blob(
    pieces: list[tuple[int, int, int, bool]],
) -> None:
    data = bytes(range(100))
    fetch = BlobFetch("device", blob_name(data), 100, BytesIO(), lambda: None)
    for length, begin, size, ours in pieces:
        name = blob_name(data) if ours else NAME
        before = len(fetch)
        fetch.take(encode_blob(BlobPiece(name, size, begin, data[begin : begin + length])))
        assert before <= len(fetch) <= min(fetch.size, 100)
        assert len(fetch) == before or (ours and begin == before)


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda rest: b"\x10" + rest))
def test_any_bytes_are_a_message_or_refused(payload: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        request = decode_blob(payload, BlobRequest)
        assert decode_blob(encode_blob(request), BlobRequest) == request
    with contextlib.suppress(RemoteProtocolError):
        piece = decode_blob(payload, BlobPiece)
        assert decode_blob(encode_blob(piece), BlobPiece) == piece


def test_messages_have_these_bytes() -> None:
    name = "0123456789abcdef" * 2
    assert encode_blob(BlobRequest(name, 5, 300)).hex() == "1093d920" + name.encode().hex() + "05cd012c"
    assert (
        encode_blob(BlobPiece(name, 9, 7, b"ab")).hex() == "1094d920" + name.encode().hex() + "0907c4026162"
    )
