"""Ages of what the outbox holds, by clocks that are set, through restarts of the node and of its machine."""

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.outbox.clock import Clock
from edge_node.outbox.journal import Bounds, Journal
from lab.sim.disk import memory_folder
from tests.edge_node.outbox.test_journal import entry, replace_opened

DAY = 86_400.0


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


@pytest.mark.parametrize("jump", [1.5 * DAY, 20_000 * DAY, -3 * DAY])
def test_an_unread_answer_outlives_a_clock_that_is_set(tmp_path: Path, jump: float) -> None:
    """At the next sweep, and at the next start, in the same boot or after the machine was off."""
    machine = Machine()
    start = partial(Journal, tmp_path / "outbox", Bounds(retention=DAY))
    with closing(start(clock=machine.clock())) as journal:
        journal.accept(entry(1, accepted=journal.now()))
        journal.accept(entry(2, accepted=journal.now()))
        journal.finish("text1", b"an answer")
        machine.wall += jump
        journal.sweep()
        first, waits = journal.entries()
        assert first.finished == pytest.approx(machine.wall)  # the times that are shown go with the clock
        machine.wall += 0.9  # as of one that runs a little faster, for which nothing is written
        journal.sweep()
        assert journal.entries() == [first, waits]
        machine.wall += jump
    with closing(start(clock=machine.clock())) as journal:
        assert [each.id for each in journal.begin()] == ["text2"]
        assert not journal.entries()[1].is_old(journal.now(), 3600.0, 0.0)
        assert journal.answer("text1") == b"an answer"


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
