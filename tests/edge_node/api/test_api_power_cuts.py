"""A node that serves, whose power is cut at any sync of its outbox: all that its clients were told is still true."""

import asyncio
import json
import random
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from broker.launcher import PrivateBroker
from edge_node.outbox.entries import Entry
from edge_node.outbox.journal import Journal
from edge_node.text.machine import FinishedText
from lab.sim.disk import (
    Recording,
    Sync,
    everything,
    memory_folder,
    nothing_more,
    recorded,
    some,
)
from tests.daemons import FakeEngine, until
from tests.edge_node.api.served import Served, alone, expected, ids_of, served
from tests.edge_node.outbox.test_journal import clock

TEXTS = {"hello": 40, "there": 7, "what": 90, "now": 25}
SEED = 5


async def _ask(node: Served, recording: Recording, prompt: str) -> None:
    """Read an answer as it comes, and note what its client knows."""
    body = {
        "messages": [{"role": "user", "content": prompt}], "seed": SEED, "max_tokens": TEXTS[prompt],
        "ignore_eos": True, "stream": True,
    }  # fmt: skip
    url = f"{node.url}/v1/chat/completions"
    async with node.http.stream("POST", url, json=body, headers={"idempotency-key": prompt}) as answer:
        assert answer.status_code == 200
        recording.mark(("accepted", prompt))
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line[6:])["choices"]
            if choice["delta"].get("content"):
                recording.mark(("shown", prompt))
            if choice["finish_reason"]:
                recording.mark(("read", prompt))


def _check(recording: Recording, cut: int, journal: Journal) -> None:
    entries = {entry.key: entry for entry in journal.entries()}
    for told, prompt in recording.said(cut):
        assert prompt in entries
        opened = entries[prompt].opened is not None or entries[prompt].state == "done"
        assert told == "accepted" or opened
        assert told != "read" or entries[prompt].state == "done"
    for entry in entries.values():
        _check_text(journal, entry)
    assert [entry.restarts for entry in journal.begin()] == [1] * sum(
        entry.unfinished for entry in entries.values()
    )


def _check_text(journal: Journal, entry: Entry) -> None:
    written, _ = expected(ids_of(entry.key), SEED, TEXTS[entry.key], ignore_eos=True)
    tokens = tuple(token for commit in journal.committed(entry.id) for token in commit.tokens)
    assert tokens == written[: len(tokens)]
    if entry.state == "done":
        answer = msgspec.json.decode(journal.answer(entry.id), type=FinishedText)
        text = alone(entry.key, SEED, TEXTS[entry.key], ignore_eos=True)
        assert "".join(piece for piece, _ in answer.pieces) == text


async def test_what_clients_were_told_is_true_after_a_power_cut(mosquitto: PrivateBroker) -> None:
    rng = random.Random(1)
    with memory_folder() as folder:
        with recorded() as recording:
            async with served(mosquitto, journal=Journal(folder / "outbox")) as node:
                await asyncio.gather(*(_ask(node, recording, prompt) for prompt in TEXTS))
        assert {told for told, _ in recording.said(len(recording.steps))} == {"accepted", "shown", "read"}
        await asyncio.to_thread(_check_all, recording, folder, rng)


async def test_an_answer_is_three_syncs(mosquitto: PrivateBroker) -> None:
    """Its request, its first token, and its end: also the first answer of a node, and one after an idle while."""
    engine = FakeEngine(before=lambda _items: time.sleep(0.05))  # tokens are written a few times meanwhile
    with memory_folder() as folder, recorded() as recording:
        async with served(mosquitto, engine=engine, journal=Journal(folder / "outbox")) as node:
            outbox = node.api.texts.outbox
            for number in range(3):
                recording.steps.clear()
                ask: dict[str, Any] = {"seed": SEED, "max_tokens": 48, "ignore_eos": True}
                answer = await node.chat(headers={"idempotency-key": f"k{number}"}, **ask)
                assert answer.json()["usage"]["completion_tokens"] == 48
                await until(lambda: "unread" not in outbox.counts)
                assert sum(isinstance(step, Sync) for step in recording.steps) == 3
                await outbox.run(outbox.journal.sweep)


def _check_all(recording: Recording, folder: Path, rng: random.Random) -> None:
    for cut in recording.cuts:
        for keeps in (nothing_more, everything, some(rng)):
            for old in folder.iterdir():
                old.unlink()
            recording.rebuild(cut, folder, keeps)
            with closing(Journal(folder / "outbox", clock=clock(lambda: 0.0))) as journal:
                _check(recording, cut, journal)
