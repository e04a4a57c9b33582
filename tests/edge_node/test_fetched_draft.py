"""A draft that a device fetches: through cuts and restarts, once, and never another one."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from broker.launcher import PrivateBroker
from edge_node.fleet import fetched_draft
from edge_node.fleet.fetched_draft import FetchedDraft, Pinned
from edge_node.fleet.target_texts import TargetTexts
from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.errors import ModelError
from flexspec_mq.models.onnx.model import load_onnx
from flexspec_mq.models.onnx.offered import pack
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.blobs import BlobHolder
from flexspec_mq.transport.link import Link
from schemas.blobs import MAX_PIECE
from schemas.status import DraftOffer, WorkerStatus
from tests.models.test_offered import changed
from tests.models.test_onnx import TEXT, decoder, read
from tests.models.tiny_checkpoints import save
from tests.transport.proxy import Proxy, proxy_to
from tests.transport.reading import PATIENCE, linked

WORKER, DEVICE = "fetched-w", "fetched-d"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("given")
    pack(save(folder / "model", decoder("smollm2")), folder / "draft.zst")
    data = (folder / "draft.zst").read_bytes()
    assert len(data) > 6 * MAX_PIECE
    return data


@pytest.fixture
async def proxy(mosquitto: PrivateBroker) -> AsyncIterator[Proxy]:
    async with proxy_to(mosquitto.host, mosquitto.port) as running:
        yield running


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CONNECT", 0.3)
    monkeypatch.setattr(waiting, "QUEUED", 0.1)


def offer(data: bytes) -> DraftOffer:
    return DraftOffer(blob_name(data), len(data))


def status(given: DraftOffer | None, worker: str = WORKER) -> WorkerStatus:
    return WorkerStatus(state="online", epoch=1, at=0.0, worker=worker, version="base", offer=given)


async def events(link: Link, take: Callable[[str, bytes], object]) -> None:
    async for event in link.events():
        if isinstance(event, Inbound):
            take(event.topic, event.payload)


@asynccontextmanager
async def giving(proxy: Proxy, data: bytes, name: str) -> AsyncIterator[list[int]]:
    """A worker with a draft under a name; yields the first bytes that it was asked for."""
    asked: list[int] = []

    async def nothing_else(_seconds: float) -> bool:
        return True

    holder = BlobHolder({name: data}, nothing_else)

    def take(topic: str, payload: bytes) -> None:
        asker = topic.rpartition("/")[2]
        holder.ask(asker, payload)
        asked.append(holder._requests[asker, name].begin)

    wanted = Subscription(topics.blob_request_topic(WORKER, "+"))
    settings = LinkSettings(
        host="127.0.0.1", port=proxy.port, client_id=WORKER, subscriptions=(wanted,), backoff=0.02
    )
    async with linked(settings) as link, asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(holder.run(link)), tasks.create_task(events(link, take))]
        yield asked
        for loop in loops:
            loop.cancel()


async def live(
    proxy: Proxy, folder: Path, heard: list[WorkerStatus], seen: Callable[[int], object] = lambda _: None
) -> None:
    """A device's life, until the draft is there or `seen`, which is told bytes that are there, ends it."""
    fetched = FetchedDraft(DEVICE, folder)
    texts = TargetTexts(DraftModel(None, None), DEVICE, fetched_draft=fetched)
    settings = LinkSettings(
        host="127.0.0.1", port=proxy.port, client_id=DEVICE, backoff=0.02, backoff_max=0.1
    )

    def take(topic: str, payload: bytes) -> None:
        texts.take(topic, payload)
        seen((folder / "draft.part").stat().st_size)

    async def statuses() -> None:
        while True:
            for one in heard:
                texts.heard(one, entropy.now())
            await asyncio.sleep(0.1)

    async with asyncio.timeout(PATIENCE), linked(settings) as link:
        beside = [asyncio.create_task(events(link, take)), asyncio.create_task(statuses())]
        whole = asyncio.create_task(texts.fetch_draft(link))
        try:
            await asyncio.wait([whole, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in (whole, *beside):
                if task.done():
                    task.result()
        finally:
            for task in (whole, *beside):
                task.cancel()


class Killed(Exception):
    """The device's end."""


async def test_it_comes_through_a_cut_and_a_restart_each_byte_once(
    proxy: Proxy, tmp_path: Path, file: bytes
) -> None:
    folder, cut = tmp_path / "fetched", False

    def first(there: int) -> None:
        nonlocal cut
        if there >= 2 * MAX_PIECE and not cut:
            cut = True
            proxy.cut()
        if there >= 4 * MAX_PIECE:
            raise Killed

    async with giving(proxy, file, offer(file).file) as asked:
        with pytest.raises(Killed):
            await live(proxy, folder, [status(offer(file))], first)
        assert cut
        kept = (folder / "draft.part").read_bytes()
        assert file.startswith(kept)
        assert len(kept) >= 4 * MAX_PIECE
        asked.clear()
        await live(proxy, folder, [status(offer(file))])
        assert min(asked) == len(kept)
        assert not (folder / "draft.part").exists()
        graphs = fetched_draft.fetched_draft(folder)
        assert graphs is not None
        assert read(load_onnx(graphs), TEXT[:9]).shape == (9, 320)
        pinned = msgspec.json.decode((folder / "pinned.json").read_bytes(), type=Pinned)
        assert (pinned.offer, pinned.worker, len(pinned.begun)) == (offer(file), WORKER, 1)
        asked.clear()
        await live(proxy, folder, [status(offer(file))])  # it is there: nothing is asked for
        assert asked == []


async def test_another_draft_is_told_and_never_taken(
    proxy: Proxy, tmp_path: Path, file: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    other = status(offer(b"another"), "other")
    async with giving(proxy, file, offer(file).file):
        await live(proxy, tmp_path / "fetched", [status(offer(file)), other])
    assert fetched_draft.fetched_draft(tmp_path / "fetched") is not None
    (told,) = [record for record in caplog.messages if "another draft" in record]
    assert told.startswith("worker other gives another draft than the one that fetched-w gave first")
    assert f"remove {tmp_path / 'fetched'}" in told
    FetchedDraft(DEVICE, tmp_path / "fetched").heard(other)  # nor in a later life
    assert len([record for record in caplog.messages if "another draft" in record]) == 2


async def until_told(
    proxy: Proxy, folder: Path, heard: WorkerStatus, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Live until something is logged."""
    caplog.set_level(logging.WARNING)
    life = asyncio.create_task(live(proxy, folder, [heard]))
    try:
        async with asyncio.timeout(PATIENCE):
            while not any(words in each for each in caplog.messages):  # noqa: ASYNC110  a log tells nobody
                await asyncio.sleep(0.05)
    finally:
        life.cancel()
        with suppress(asyncio.CancelledError):
            await life


async def test_bytes_of_another_hash_are_thrown_away_and_few_fetches_begin_in_a_day(
    proxy: Proxy, tmp_path: Path, file: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder, forged = tmp_path / "fetched", file[:-1] + bytes([file[-1] ^ 1])
    async with giving(proxy, forged, offer(file).file):
        await until_told(proxy, folder, status(offer(file)), "4 fetches have begun within a day", caplog)
    assert (
        len([message for message in caplog.messages if "it has another hash than its name" in message]) == 4
    )
    assert (folder / "draft.part").stat().st_size == 0
    assert fetched_draft.fetched_draft(folder) is None


async def test_what_does_not_run_here_is_not_taken(
    proxy: Proxy, tmp_path: Path, file: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "fetched"
    (tmp_path / "draft").write_bytes(file)

    def other(tensors: dict[str, Any], _facts: dict[str, str]) -> None:
        tensors["config.json"] = np.frombuffer(b'{"vocab_size": 7}', np.uint8)

    bad = changed(tmp_path / "draft", tmp_path / "bad", other).read_bytes()
    async with giving(proxy, bad, offer(bad).file):
        await until_told(proxy, folder, status(offer(bad)), "is not here yet", caplog)
    assert fetched_draft.fetched_draft(folder) is None
    assert (folder / "draft.part").read_bytes() == bad  # another release of this node may run it


async def test_a_disk_without_room_is_asked_first(
    proxy: Proxy,
    tmp_path: Path,
    file: bytes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, free = tmp_path / "fetched", 3 * len(file)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free))
    async with giving(proxy, file, offer(file).file) as asked:
        await until_told(proxy, folder, status(offer(file)), "of the disk", caplog)
        assert asked == []
        free = 1 << 40
        await live(proxy, folder, [status(offer(file))])
    assert fetched_draft.fetched_draft(folder) is not None


async def test_what_was_pinned_and_cannot_be_read_is_not_forgotten(tmp_path: Path) -> None:
    (tmp_path / "pinned.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read") as caught:
        FetchedDraft(DEVICE, tmp_path)
    assert str(tmp_path) in caught.value.hint
