"""A step waits for sessions that will be back in a moment, and for nobody else."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from flexspec_mq.controller.plan import Plan
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.scheduling.batching_window import SHARE, BatchingWindow
from lab.simulator.world import identity
from lab.testbed.memory_broker import MemoryBroker
from tests.daemons import FakeEngine, check, edge_at, until, wanting, worker_at

A, B, C = (("e", 1), ("e", 2), ("e", 3))
STEP = 0.3


def item(key: SessionKey, since: float) -> WorkItem:
    work = {
        "version": "v",
        "start": 0,
        "digest": 0,
        "context": (1,),
        "prompt_length": 1,
        "draft": (),
        "seq": 1,
    }
    return WorkItem(key=key, identity=identity(), waiting_since=since, **work)  # type: ignore[arg-type]


def knowing(**takes: float) -> BatchingWindow:
    """After one step, at 0, whose sessions a, b, c came back after so many seconds."""
    window = BatchingWindow()
    window.stepped(STEP)
    for name, took in takes.items():
        key = {"a": A, "b": B, "c": C}[name]
        window.answered(key, -100.0)
        window.took([item(key, -100.0 + took)])
        window.answered(key, 0.0)
    return window


def test_sessions_that_come_back_soon_are_waited_for() -> None:
    window = knowing(a=0.01, b=0.02)
    assert window.wait({A}, 0.0) == pytest.approx(0.03)  # half as much again as b takes
    assert window.wait({A}, 0.02) == pytest.approx(0.01)
    assert window.wait({A, B}, 0.02) <= 0.0
    assert window.wait({A}, 0.031) <= 0.0


def test_no_step_waits_longer_than_a_share_of_a_step() -> None:
    within = SHARE * STEP - 0.001
    assert knowing(a=0.01, b=within).wait({A}, 0.0) == pytest.approx(SHARE * STEP)
    assert knowing(a=0.01, b=within + 0.002).wait({A}, 0.0) == 0.0


def test_many_are_not_held_up_for_one_that_takes_long() -> None:
    """With 15 here, 16 in 390 ms are fewer per second than 15 in 300 ms; with one here, two are more than one."""
    many = {("e", number) for number in range(10, 25)}
    window = knowing(a=0.09)
    assert window.wait(many, 0.0) == 0.0
    assert window.wait({C}, 0.0) > 0.0
    # Session b, which takes 10 ms, is worth its time, and is not waited for as long as a would be.
    assert knowing(a=0.09, b=0.01).wait(many, 0.0) == pytest.approx(0.015)


def test_the_shortest_of_the_newest_steps_counts() -> None:
    window = knowing(a=0.01, b=0.05)
    window.stepped(0.03)
    assert window.wait({A}, 0.0) == 0.0
    for _ in range(4):
        window.stepped(STEP)
    assert window.wait({A}, 0.0) > 0.0


def test_nobody_is_waited_for_before_it_came_back_once_or_before_a_step() -> None:
    window = knowing(a=0.01)
    window.answered(B, 0.0)
    assert window.wait({A}, 0.0) == 0.0
    assert BatchingWindow().wait({A}, 0.0) == 0.0
    assert knowing(a=0.01).wait((), 0.0) == 0.0  # nothing is ready


def test_nobody_waits_for_one_devices_many_sessions() -> None:
    many = [("many", number) for number in range(4)]
    window = knowing()
    for key in many:
        window.answered(key, -100.0)
        window.took([item(key, -99.99)])
        window.answered(key, 0.0)
    assert window.wait({("one", 1), many[0]}, 0.0) <= 0.0
    assert window.wait({("one", 1), ("one", 2), many[0]}, 0.0) > 0.0
    assert window.wait({many[0]}, 0.0) > 0.0


def test_one_that_was_late_is_late_until_it_is_soon_again() -> None:
    window = knowing(a=0.01, b=0.01)
    window.took([item(B, 0.5)])
    window.answered(B, 1.0)
    assert window.wait({A}, 1.0) == 0.0
    for number in range(2, 12):
        window.took([item(B, number - 1 + 0.01)])
        window.answered(B, float(number))
    assert 0.0 < window.wait({A}, 11.0) < 0.1


def test_one_that_is_gone_is_forgotten() -> None:
    window = knowing(a=0.01, b=0.01)
    window.forget(B)
    assert window.wait({A}, 0.0) == 0.0
    window.forget(C)  # need not be known


async def test_sessions_that_ask_for_each_token_share_their_steps() -> None:
    """Some come while others are in a step. Without waiting the two groups take turns, half of them in a step."""
    sessions, tokens, spent = 8, 16, 0.5

    def slow(_: Sequence[WorkItem]) -> None:
        time.sleep(spent)

    broker, engine = MemoryBroker(), FakeEngine(slow)
    async with worker_at(broker.link, "w1", engine) as daemon, edge_at(broker.link) as node:
        plan = Plan(draft_length=0, qos=1)
        requests = [wanting(number, limit=tokens, plan=plan) for number in range(sessions)]
        early = asyncio.create_task(check(node, requests[: sessions // 2]))
        await until(engine.entered.is_set)
        await check(node, requests[sessions // 2 :])
        await early
        assert daemon.worker.machine.counters.decided == sessions * tokens
    steady = [len(batch) for batch in engine.batches[5:-5]]
    assert sum(steady) / len(steady) > 0.75 * sessions, steady
