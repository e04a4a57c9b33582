"""Items that share a forward where one device has more to do than others: the scheduler on a tiny model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.scheduling.allocation import Allocation
from flexspec_mq.scheduling.draft_budget import DraftBudget
from flexspec_mq.scheduling.prefill_shares import DEVICE_PREFILL_SHARE
from tests.cloud_worker.test_engine import GivenBudget, item, model_of


def prompt(edge: str, session: int, tokens: int) -> WorkItem:
    one = item(4, 0)
    return replace(
        one, key=(edge, session), context=[1 + at % 9 for at in range(tokens)], prompt_length=tokens
    )


def budget() -> GivenBudget:
    """A budget that knows what forwards take: 30 ms, and 1 ms more for each token that is read."""
    made = GivenBudget(most=128)
    for _ in range(6):
        made.tell(2, 32, 62.0)
        made.tell(2, 0, 30.0)
    return made


def fed(scheduler: Scheduler) -> Counter[str]:
    """Tokens of the next forward by device; what it would compute is left as it is."""
    scheduler.writing_items()
    found = Counter[str]()
    for one in scheduler.schedule():
        found[one.item.key[0]] += len(one.model_input.tokens)
    return found


def read(engine: ModelEngine, *items: WorkItem) -> None:
    """Compute what is decided first of prompts."""
    for one in items:
        engine.scheduler.add(one)
    while engine.scheduler.pending:
        engine.step()


def test_a_device_that_begins_is_read_before_one_that_has_had_much_read() -> None:
    engine = ModelEngine(model_of(), budget=budget())
    scheduler = engine.scheduler
    scheduler.add(prompt("evil", 1, 2400))
    for _ in range(18):
        engine.step()
    for session in range(2, 20):
        scheduler.add(prompt("evil", session, 400))
    scheduler.add(prompt("good", 1, 100))
    found = fed(scheduler)
    assert found["good"] == 100
    assert found["evil"] <= 32


def test_beside_others_that_write_much_reading_is_little_of_the_time() -> None:
    made = budget()
    engine = ModelEngine(model_of(), budget=made)
    scheduler = engine.scheduler
    read(engine, prompt("good", 1, 20))
    scheduler.add(prompt("evil", 1, 9000))
    spent, turns, had = 0.0, 0, 0
    while turns < 100:
        if ("good", 1) not in scheduler.pending:
            scheduler.add(replace(prompt("good", 1, 20), start=0))
        before = scheduler.unread(scheduler.pending["evil", 1])
        engine.step()
        got = before - scheduler.unread(scheduler.pending["evil", 1])
        made.tell(1, got, 30.0 + got)
        if had > 2200:
            turns += 1
            spent += got
        had += got
    # The higher share where this takes so long that what was read is forgotten.
    assert 0.05 <= spent / (100 * 30.0) <= 1.1 * DEVICE_PREFILL_SHARE


def test_a_lone_reader_takes_short_steps_beyond_some_pages_where_others_were_here() -> None:
    engine = ModelEngine(model_of(), budget=budget())
    read(engine, prompt("good", 1, 20))
    scheduler = engine.scheduler
    scheduler.add(prompt("page", 1, 900))
    assert fed(scheduler)["page"] == 128
    scheduler.drop(("page", 1))
    for session in (1, 2):
        read(engine, prompt("evil", session, 900))
    scheduler.add(prompt("evil", 3, 900))
    assert 8 <= fed(scheduler)["evil"] <= 64


def test_what_is_read_slowly_is_counted_and_may_be_set() -> None:
    def slowed(device_prefill: int) -> tuple[int, int]:
        engine = ModelEngine(model_of(), budget=budget(), device_prefill=device_prefill)
        scheduler = engine.scheduler
        read(engine, prompt("good", 1, 5))
        scheduler.add(prompt("much", 1, 2000))
        while scheduler.unread(scheduler.pending["much", 1]) > 1700:
            engine.step()
        total = tokens = 0
        for _ in range(20):
            scheduler.add(prompt("good", 1, 5))
            tokens += fed(scheduler)["much"]
            total += scheduler.slowed
            scheduler.drop(("good", 1))
        return tokens, total

    tokens, total = slowed(256)
    assert 0 < tokens == total < 20 * 32
    assert slowed(10_000)[1] == 0


def test_those_that_have_as_much_read_do_not_slow_each_other() -> None:
    engine = ModelEngine(model_of(), budget=budget())
    scheduler = engine.scheduler
    for edge in "abc":
        read(engine, prompt(edge, 1, 400))
    scheduler.add(prompt("b", 1, 5))
    scheduler.add(prompt("c", 1, 5))
    scheduler.add(prompt("a", 2, 400))
    fed(scheduler)
    assert scheduler.slowed == 0
    for session in (3, 4, 5, 6):
        read(engine, prompt("a", session, 400))
    scheduler.add(prompt("b", 1, 5))
    scheduler.add(prompt("c", 1, 5))
    scheduler.add(prompt("a", 7, 400))
    assert fed(scheduler)["a"] == scheduler.slowed > 0


def test_devices_that_begin_share_alike_however_many_prompts_each_has() -> None:
    engine = ModelEngine(model_of(), budget=budget())
    scheduler = engine.scheduler
    for session in range(8):
        scheduler.add(prompt("many", session, 20))
    scheduler.add(prompt("one", 1, 200))
    found = fed(scheduler)
    assert found["one"] == found["many"] > 16


def test_rows_of_a_device_that_has_more_are_held_back_and_come_in_turn() -> None:
    engine = ModelEngine(model_of())
    scheduler = engine.scheduler
    for session in range(6):
        read(engine, prompt("evil", session, 5))
    read(engine, prompt("good", 1, 5))

    def dear(sessions: int) -> float:
        return 10.0 * sessions

    seen = Counter[tuple[str, int]]()
    for _ in range(12):
        for session in range(6):
            if ("evil", session) not in scheduler.pending:
                scheduler.add(prompt("evil", session, 5))
        scheduler.add(prompt("good", 1, 5))
        chosen = scheduler.writing_items(dear)
        assert scheduler.sharing == 2
        assert len(chosen) == 2
        done = [one.item.key for one in scheduler.schedule()]
        assert set(done) == {one.key for one in chosen}
        seen.update(done)
        for key in done:
            scheduler.drop(key)
    assert seen["good", 1] == 12
    assert all(seen["evil", session] == 2 for session in range(6))


def test_drafts_are_weighed_in_a_forward_that_reads_prompts_as_well() -> None:
    expected, read_beside = list[float](), list[int]()

    class Noting(DraftBudget):
        def allocate(
            self, drafts: Mapping[SessionKey, int], sessions: int, reading: float = 0.0
        ) -> Allocation:
            expected.append(reading)
            return super().allocate(drafts, sessions, reading)

        def observe(self, sessions: int, rows: int, ms: float, reading: int = 0) -> None:
            read_beside.append(reading)
            super().observe(sessions, rows, ms, reading)

    made = budget()
    engine = ModelEngine(model_of(), budget=made, draft_budget=Noting())
    read(engine, prompt("good", 1, 5))
    engine.scheduler.add(replace(prompt("good", 1, 5), draft=(1, 2, 3, 4)))
    engine.step()
    assert (expected[-1], read_beside[-1]) == (0.0, 0)
    engine.scheduler.add(prompt("evil", 1, 400))
    engine.scheduler.add(replace(prompt("good", 1, 5), draft=(1, 2, 3, 4)))
    engine.step()
    assert read_beside[-1] >= 8
    assert expected[-1] == pytest.approx(made.adds(1, 400))
    assert expected[-1] > 8.0  # 1 ms for each token that the budget allows


def test_drafts_for_one_session_of_a_device_keep_its_others_waiting() -> None:
    """Where another device was here a moment ago, few sessions of one share a forward, and each waits for all."""
    engine = ModelEngine(model_of())
    scheduler = engine.scheduler
    for session in range(6):
        read(engine, prompt("many", session, 5))
    read(engine, prompt("away", 1, 5))
    for session in range(6):
        scheduler.add(prompt("many", session, 5))
    chosen = scheduler.writing_items(lambda sessions: 90.0 * sessions)
    assert (len(chosen), scheduler.sharing) == (1, 6)
