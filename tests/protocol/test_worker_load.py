"""Room for one more session, and what an edge is told where there is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from flexspec_mq.protocol.effects import Reply
from flexspec_mq.protocol.worker.machine import WorkerMachine
from lab.simulator.world import held, identity
from schemas.messages import Close, CloseReason, Error, ErrorCode, Open, Verdict
from tests.protocol.test_worker_rules import CONFIG


def opening(session: int, prompt: int = 3, limit: int = 20, attempt: int = 1) -> Open:
    return Open(session, attempt, identity(limit=limit), (1,) * prompt, (), 0, 1, ())


def answer(machine: WorkerMachine, message: Open, now: float = 0.0, edge: str = "e") -> Verdict | Error:
    (effect,) = machine.receive(edge, message, now)
    assert isinstance(effect, Reply)
    return effect.message


def refused(machine: WorkerMachine, session: int, now: float, edge: str = "e") -> int:
    """The retry hint in ms."""
    error = answer(machine, opening(session), now, edge)
    assert isinstance(error, Error)
    assert error.code is ErrorCode.BUSY
    return error.retry


def close(machine: WorkerMachine, session: int, now: float) -> None:
    machine.receive("e", Close(session, 1, 0, CloseReason.DONE), now)


def test_sessions_are_taken_as_long_as_their_tokens_fit() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=99, room=6 * 64, versions=held(1000)))
    for session, prompt in ((1, 63), (2, 64), (3, 100)):  # with their next token: 64, 128 and 128
        assert isinstance(answer(machine, opening(session, prompt)), Verdict)
    no_room = answer(machine, opening(4, prompt=64))
    assert isinstance(no_room, Error)
    assert no_room.code is ErrorCode.BUSY
    assert isinstance(answer(machine, opening(5, prompt=63)), Verdict)
    refused(machine, 6, 0.0)


def test_room_counts_whole_grains_and_comes_back() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=99, room=2 * 64, versions=held(1000)))
    assert isinstance(answer(machine, opening(1)), Verdict)
    assert isinstance(answer(machine, opening(2)), Verdict)
    assert refused(machine, 3, 1.0) > 0
    close(machine, 1, 2.0)
    assert isinstance(answer(machine, opening(3), 2.0), Verdict)


def test_a_session_that_can_never_fit_is_told_so_and_not_to_come_back() -> None:
    machine = WorkerMachine(replace(CONFIG, room=64))
    error = answer(machine, opening(1, prompt=45, limit=20))
    assert isinstance(error, Error)
    assert error.code is ErrorCode.CONTEXT
    assert "memory" in error.detail


def test_the_hint_follows_how_long_sessions_live() -> None:
    hints = []
    for life in (0.4, 1.6, 6.4):
        machine = WorkerMachine(CONFIG)
        for turn in range(6):
            for session in (1, 2):
                answer(machine, opening(10 * turn + session), turn * life)
            for session in (1, 2):
                close(machine, 10 * turn + session, (turn + 1) * life)
        for session in (91, 92):
            answer(machine, opening(session), 100.0)
        hints.append(refused(machine, 93, 100.0))
    assert hints == [200, 800, 3200]  # one of two sessions ends in half a life


def test_sessions_that_live_longer_than_those_before_lengthen_the_hint() -> None:
    machine = WorkerMachine(CONFIG)
    answer(machine, opening(1), 0.0)
    close(machine, 1, 0.1)
    answer(machine, opening(2), 1.0)
    answer(machine, opening(3), 1.0)
    assert refused(machine, 4, 1.0) == 50
    assert refused(machine, 4, 3.0) == 1000


def test_who_waits_already_goes_first_and_is_counted_once() -> None:
    machine = WorkerMachine(replace(CONFIG, busy_most=60.0))
    answer(machine, opening(1), 0.0)
    answer(machine, opening(2), 0.0, edge="f")
    hints = [refused(machine, session, 2.0, edge=f"e{session}") for session in range(3, 9)]
    assert hints == [1000, 2000, 3000, 4000, 5000, 6000]
    assert refused(machine, 3, 2.0, edge="e3") == 6000  # the others are before it now
    # Those that did not come back are forgotten when their time is over.
    assert refused(machine, 99, 20.0) == 10_000


def test_without_any_knowledge_the_hint_is_the_configured_one() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=1, busy_retry=0.7))
    answer(machine, opening(1), 5.0)
    assert refused(machine, 2, 5.0) == 700


def test_hints_are_bounded() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=1))
    answer(machine, opening(1), 0.0)
    assert refused(machine, 2, 0.001) == 50
    assert refused(machine, 2, 1000.0) == 5000
    hints = [refused(machine, 2, now) for now in (1.0, 2.0, 3.0)]
    assert all(one <= other for one, other in pairwise(hints))
