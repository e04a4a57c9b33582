"""Nodes whose disk is full: a real one where one can be mounted, and SQLite's files that may not grow everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from edge_node.outbox.entries import NoRoom
from edge_node.outbox.journal import Journal
from flexspec_mq import waiting
from lab.sim.disk import recorded
from tests.daemons import PATIENCE, FakeEngine, worker_at
from tests.edge_node.api.served import Served, alone, content, keyed, links_to, said, served
from tests.edge_node.outbox.test_damage import write_format_1
from tests.edge_node.outbox.test_journal import commit, entry, replace_opened

VERSION = "full"
ASK: dict[str, Any] = {"seed": 5, "max_tokens": 12, "ignore_eos": True}


@dataclass(frozen=True)
class Disk:
    """A disk that can be filled, and freed again."""

    folder: Path
    fill: Callable[[], object]
    free: Callable[[], object]

    @property
    def file(self) -> Path:
        return self.folder / "state" / "outbox.sqlite"


@pytest.fixture(params=["mounted", "simulated"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk, once of its own and once as SQLite sees it."""
    if request.param == "simulated":
        with recorded() as recording:
            setting = partial(setattr, recording, "full")
            yield Disk(tmp_path, partial(setting, True), partial(setting, False))
        return
    folder: Path = request.getfixturevalue("disk")
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    yield Disk(folder, fill, filler.unlink)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "STATUS", 0.1)


async def views(node: Served) -> dict[str, str]:
    """States of all requests, by what they ask."""
    listed = (await node.get("/v1/outbox")).json()["data"]
    return {
        view["prompt"]: "unread" if (view["state"], view["read"]) == ("done", False) else view["state"]
        for view in listed
    }


async def shows(node: Served, expected: dict[str, str]) -> None:
    """Wait until the outbox has these requests, in these states."""
    async with asyncio.timeout(2 * PATIENCE):
        while await views(node) != expected:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.02)


def test_a_file_that_a_full_disk_has_no_room_for_is_made_as_soon_as_there_is(small: Disk) -> None:
    small.fill()
    with closing(Journal(small.file)) as journal:
        with pytest.raises(NoRoom, match="is full") as told:
            journal.accept(entry(1))
        assert "as soon as there is room" in told.value.hint
        assert (journal.entries(), journal.under("key1"), journal.forget("text1")) == ([], None, False)
        small.free()
        journal.accept(entry(1))
    with closing(Journal(small.file)) as journal:
        assert [each.id for each in journal.begin()] == ["text1"]


async def test_what_was_acknowledged_is_read_and_dropped_on_a_full_disk_and_goes_on_when_there_is_room(
    mosquitto: PrivateBroker, small: Disk
) -> None:
    engine = FakeEngine()
    text = partial(alone, seed=5, limit=12, ignore_eos=True)
    async with worker_at(links_to(mosquitto), "wf", engine, version=VERSION):
        start = partial(
            served, mosquitto, workers=0, version=VERSION, edge={"edge": "full"}, heartbeat=0.2, grace=0.2
        )
        async with start(journal=Journal(small.file)) as node:
            for prompt in ("read", "drop"):
                await node.chat(prompt, keyed(prompt), **ASK)
            engine.gate.clear()
            await node.leave("later", "later", wait=600.0, **ASK)
            await node.leave("never", "never", wait=600.0, **ASK)
        small.fill()
        held = {"read": "done", "drop": "done", "later": "queued", "never": "queued"}
        async with start(journal=Journal(small.file)) as node:
            assert await views(node) == held
            assert (await node.get("/v1/outbox/drop")).json()["text"] == text("drop")
            assert content(await node.chat("read", keyed("read"), **ASK)) == text("read")
            said(await node.chat("new", keyed("new"), **ASK), 503, "outbox")
            said(await node.chat("later", keyed("later"), stream=True, wait=600.0, **ASK), 503, "outbox")
            for prompt in ("drop", "never"):
                assert (await node.http.delete(f"{node.url}/v1/outbox/{prompt}")).json()["dropped"] is True
                said(await node.get(f"/v1/outbox/{prompt}"), 404, "not_found")
                del held[prompt]
            assert await views(node) == held
        async with start(journal=Journal(small.file)) as node:
            assert await views(node) == held  # a drop outlives the node, too
            small.free()
            engine.gate.set()
            await shows(node, {"read": "done", "later": "unread"})
            assert (await node.get("/v1/outbox/later")).json()["text"] == text("later")
            await node.chat("drop", keyed("drop"), **ASK)
            await shows(node, {"read": "done", "later": "unread", "drop": "done"})
        async with start(journal=Journal(small.file)) as node:
            assert await views(node) == {"read": "done", "later": "unread", "drop": "done"}
    assert not [file for file in small.file.parent.iterdir() if "dropped" in file.name]
    prompts = {prompt for batch in engine.batches for prompt in batch}
    assert len(prompts) == 4  # nothing was written of the request that was dropped before it began


def test_what_is_there_is_read_and_dropped_on_a_full_disk(small: Disk) -> None:
    with closing(Journal(small.file)) as journal:
        journal.accept(entry(1))
        journal.finish("text1", b"an answer")
        journal.accept(entry(2, body=b"x" * 200_000))
        before = journal.entries()
    small.fill()
    with closing(Journal(small.file)) as journal:
        assert journal.entries() == before
        assert journal.answer("text1") == b"an answer"
        for call in (journal.begin, partial(journal.accept, entry(3)), partial(journal.unpark, "text2")):
            with pytest.raises(NoRoom, match="is full"):
                call()
        assert journal.forget("text2")
        assert not journal.forget("text2")
        assert journal.counts() == {"unread": 1}
        assert journal.under("key2") is None
    small.free()
    with closing(Journal(small.file)) as journal:
        assert [each.id for each in journal.entries()] == ["text1"]
        journal.accept(entry(4, key="key2"))  # the key of the one that was dropped
        assert [each.id for each in journal.begin()] == ["text4"]
    assert [file.name for file in small.file.parent.iterdir()] == [small.file.name]


def test_a_file_of_the_format_before_is_converted_as_soon_as_there_is_room(small: Disk) -> None:
    small.file.parent.mkdir()
    before = write_format_1(small.file, clock=True)
    small.fill()
    with closing(Journal(small.file)) as journal:
        assert journal.entries() == []
        with pytest.raises(NoRoom, match="is full"):
            journal.begin()
        small.free()
        journal.begin()
        assert [each.id for each in journal.entries()] == list(before)


def test_tokens_behind_a_gap_that_a_full_disk_has_left_come_anew(small: Disk) -> None:
    journal = Journal(small.file)
    for number in (1, 2):
        journal.accept(entry(number))
        journal.open(f"text{number}", replace_opened(number))
    journal.commit({"text1": [commit(0, 5)]})
    small.fill()
    with pytest.raises(NoRoom):
        journal.commit({"text1": [commit(5, 50_000)]})
    small.free()
    journal.commit({"text1": [commit(5005, 5)]})
    assert [each.start for each in journal.committed("text1")] == [0]
    journal.commit({"text1": [commit(5, 5000)]})
    assert [each.start for each in journal.committed("text1")] == [0, 5]
    journal.commit({"text1": [commit(5005, 9)], "text2": [commit(0, 3)]})
    assert [len(each.tokens) for each in journal.committed("text1")] == [5, 5000, 9]
    assert journal.committed("text2") == [commit(0, 3)]
    journal.close()
