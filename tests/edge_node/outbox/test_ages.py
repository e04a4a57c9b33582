"""Ages of what the outbox holds, by clocks that are set, through restarts of the node and of its machine."""

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from edge_node.outbox.clock import Clock
from edge_node.outbox.journal import Bounds, Journal
from tests.daemons import FakeEngine, until, worker_at
from tests.edge_node.api.served import Served, alone, keyed, links_to, said, served, waiting_engine
from tests.edge_node.outbox.power import memory_folder
from tests.edge_node.outbox.test_journal import entry, replace_opened

DAY = 86_400.0
VERSION = "ages"
ASK: dict[str, Any] = {"seed": 5, "max_tokens": 12, "ignore_eos": True}


@dataclass
class Machine:
    """A machine whose clock can be set."""

    wall: float = 1e9
    up: float = 60.0
    boots: int = 1

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.up, f"boot {self.boots}")

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.up += seconds

    def reboot(self, off: float) -> None:
        self.wall += off
        self.up = 5.0
        self.boots += 1


async def leave(node: Served, engine: FakeEngine, prompt: str) -> None:
    """Ask with a key, go away when that is acknowledged, and have the worker write the answer."""
    before = node.api.texts.outbox.counts.get("unread", 0)
    engine.gate.clear()
    await node.leave(prompt, prompt, **ASK)
    engine.gate.set()
    await until(lambda: node.api.texts.outbox.counts.get("unread", 0) == before + 1)


async def held(node: Served) -> dict[str, bool]:
    """Whether the answers that there are were read, by what was asked."""
    listed = (await node.get("/v1/outbox")).json()["data"]
    return {view["prompt"]: view["read"] for view in listed}


@pytest.mark.parametrize("jump", [1.5 * DAY, 20_000 * DAY, -3 * DAY])
async def test_an_unread_answer_outlives_a_clock_that_is_set(
    mosquitto: PrivateBroker, tmp_path: Path, jump: float
) -> None:
    """At the next sweep, and at the next start, in the same boot or after the machine was off."""
    machine, file = Machine(), tmp_path / "outbox"
    start = partial(served, mosquitto, version=VERSION, heartbeat=0.1, edge={"edge": "pi"})
    engine = FakeEngine()
    async with start(engine=engine, journal=Journal(file, clock=machine.clock())) as node:
        await leave(node, engine, "hello")
        machine.wall += jump
        outbox = node.api.texts.outbox
        await outbox.run(outbox.journal.sweep)
        assert await held(node) == {"hello": False}
        (view,) = (await node.get("/v1/outbox")).json()["data"]
        assert view["finished"] == pytest.approx(machine.wall)  # the times that are shown go with the clock
        machine.wall += jump
    async with start(workers=0, journal=Journal(file, clock=machine.clock())) as node:
        assert await held(node) == {"hello": False}
        machine.wait(DAY - 3600.0)
        outbox = node.api.texts.outbox
        await outbox.run(outbox.journal.sweep)
    machine.reboot(abs(jump))
    async with start(workers=0, journal=Journal(file, clock=machine.clock())) as node:
        assert await held(node) == {"hello": False}
        assert (await node.get("/v1/outbox/hello")).json()["text"] == alone("hello", 5, 12, ignore_eos=True)
        machine.wait(3601.0)
        outbox = node.api.texts.outbox
        await outbox.run(outbox.journal.sweep)
        assert await held(node) == {}


async def test_a_request_is_no_older_for_a_clock_that_was_set_before_the_node_was_started_again(
    mosquitto: PrivateBroker, tmp_path: Path
) -> None:
    machine, file, engine = Machine(), tmp_path / "outbox", waiting_engine()
    start = partial(served, mosquitto, version=VERSION, heartbeat=0.1, edge={"edge": "pi"}, grace=0.2)
    async with worker_at(links_to(mosquitto), "wa", engine, version=VERSION):
        async with start(workers=0, journal=Journal(file, clock=machine.clock())) as node:
            await node.leave("hello", "hello", **ASK)
        machine.wall += 20_000 * DAY
        engine.gate.set()
        async with start(workers=0, journal=Journal(file, clock=machine.clock())) as node:
            await until(lambda: node.api.texts.outbox.counts == {"unread": 1})  # and not stale


def test_only_what_a_worker_may_have_written_is_as_old_as_answers_are_kept() -> None:
    opened = replace_opened(1)
    for mode, there, kept, age in (
        ("hold", opened, 60.0, 2.0), ("deliver", None, 60.0, 2.0), ("deliver", opened, 60.0, 60.0),
        ("deliver", opened, 1.0, 2.0),
    ):  # fmt: skip
        waits = entry(1, accepted=100.0, mode=mode, opened=there)
        assert [waits.is_old(100.0 + age + past, 2.0, kept) for past in (0.0, 0.1)] == [False, True]
        assert not replace(waits, tokens=1).is_old(1e9, 2.0, kept)


def test_a_request_that_is_sent_again_while_no_node_runs_is_new_whatever_the_machine_did(
    tmp_path: Path,
) -> None:
    machine = Machine()
    with closing(Journal(tmp_path / "outbox", clock=machine.clock())) as journal:
        journal.accept(entry(1, accepted=journal.now()))
    machine.reboot(3 * DAY)
    with closing(Journal(tmp_path / "outbox", clock=machine.clock())) as journal:
        (waits,) = journal.entries()
        assert waits.is_old(journal.now(), 3600.0, 0.0)
        assert not journal.unpark("text1").is_old(journal.now(), 3600.0, 0.0)
    machine.wall += 3 * DAY
    with closing(Journal(tmp_path / "outbox", clock=machine.clock())) as journal:
        (waits,) = journal.begin()
        assert not waits.is_old(journal.now(), 3600.0, 0.0)


async def test_a_full_outbox_gives_up_answers_that_were_read_and_no_others(mosquitto: PrivateBroker) -> None:
    engine = FakeEngine()
    async with served(mosquitto, engine=engine, version=VERSION, heartbeat=0.1, outbox_texts=4) as node:
        await leave(node, engine, "one")
        for prompt in ("two", "three"):
            await node.chat(prompt, keyed(prompt), **ASK)
        await leave(node, engine, "four")
        assert await held(node) == {"one": False, "two": True, "three": True, "four": False}
        await leave(node, engine, "five")
        assert await held(node) == {"one": False, "three": True, "four": False, "five": False}
        await leave(node, engine, "six")
        told = said(await node.chat("seven", keyed("seven"), **ASK), 503, "outbox_full")
        assert "outbox drop ID" in told["message"]
        assert await held(node) == {"one": False, "four": False, "five": False, "six": False}
        assert (await node.chat("one", keyed("one"), stream=True, **ASK)).status_code == 200
        assert (await node.chat("seven", keyed("seven"), **ASK)).status_code == 200
        assert await held(node) == {"four": False, "five": False, "six": False, "seven": True}


KEEP = 100.0
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["wait", "off"]), st.floats(0.5, 70.0)),
        st.tuples(st.just("set"), st.floats(-1e9, 1e9)),
        st.tuples(st.sampled_from(["sweep", "restart", "reboot", "finish"]), st.floats(0.0, 1000.0)),
    ),
    max_size=30,
)


@given(history=steps)
def test_no_answer_goes_before_its_time_and_each_goes_after_it(history: list[tuple[str, float]]) -> None:
    machine, count = Machine(), 0
    known = dict[str, float]()  # seconds since an answer was there, in which the machine was on
    rebooted = set[str]()  # of whose age some may be forgotten
    with memory_folder() as folder:
        journal = Journal(folder / "outbox", Bounds(retention=KEEP), machine.clock())
        for what, seconds in history:
            if what == "finish":
                count += 1
                journal.accept(entry(count, accepted=journal.now()))
                journal.finish(f"text{count}", b"an answer")
                known[f"text{count}"] = 0.0
            elif what == "set":
                machine.wall += seconds
            elif what == "sweep":
                journal.sweep()
            else:
                if what != "wait":
                    journal.close()
                if what == "reboot":
                    machine.reboot(seconds)
                    rebooted |= set(known)
                elif what in ("wait", "off"):
                    machine.wait(seconds)
                    known = {name: age + seconds for name, age in known.items()}
                if what != "wait":
                    journal = Journal(folder / "outbox", Bounds(retention=KEEP), machine.clock())
                    journal.begin()
            there = {each.id for each in journal.entries()}
            assert {name for name, age in known.items() if age < KEEP - 1.0} <= there
            if what in ("sweep", "restart", "off"):
                assert not {name for name in there - rebooted if known[name] > KEEP + 1.0}
            known = {name: age for name, age in known.items() if name in there}
        with closing(journal):
            machine.wait(KEEP + 1.0)
            journal.sweep()
            assert journal.entries() == []
