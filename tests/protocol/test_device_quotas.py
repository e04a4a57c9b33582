"""Places at a worker by device: nobody holds more than a share where others want one, and all may be one's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.protocol.effects import Free, Reply
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.turns import by_device, to_go
from lab.simulator.world import held, identity
from schemas.messages import Close, CloseReason, Error, ErrorCode, Open, Poll, Verdict
from tests.protocol.test_worker_rules import CONFIG


def opening(session: int, prompt: int = 3) -> Open:
    return Open(session, 1, identity(limit=20), (1,) * prompt, (), 4, 1, ())


def answer(machine: WorkerMachine, edge: str, session: int, now: float, prompt: int = 3) -> Verdict | Error:
    """What the one that asks is told; it comes last."""
    effects = machine.receive(edge, opening(session, prompt), now)
    reply = [one for one in effects if isinstance(one, Reply) and one.edge == edge][-1]
    return reply.message


def places(machine: WorkerMachine) -> Counter[str]:
    return Counter(edge for edge, _ in machine.sessions)


def full(capacity: int = 8) -> WorkerMachine:
    """A worker whose places one device has taken."""
    machine = WorkerMachine(replace(CONFIG, capacity=capacity, versions=held(10_000)))
    for session in range(capacity):
        assert isinstance(answer(machine, "evil", 1 + session, float(session)), Verdict)
    return machine


def test_one_device_alone_may_have_all_places() -> None:
    machine = full()
    assert places(machine) == {"evil": 8}
    more = answer(machine, "evil", 99, 10.0)
    assert isinstance(more, Error)
    assert more.code is ErrorCode.BUSY
    assert more.retry > 0


def test_a_newcomer_takes_the_newest_place_of_who_holds_most_and_that_one_is_told() -> None:
    machine = full()
    effects = machine.receive("good", opening(1), 10.0)
    assert places(machine) == {"evil": 7, "good": 1}
    gone, hello = [one for one in effects if isinstance(one, Reply)]
    assert gone.edge == "evil"
    assert isinstance(gone.message, Error)
    assert (gone.message.session, gone.message.code) == (8, ErrorCode.UNKNOWN)
    assert isinstance(hello.message, Verdict)
    assert Free(("evil", 8)) in effects
    assert machine.counters.yielded == 1
    # It cannot take the place back: it holds more than the other one.
    back = answer(machine, "evil", 9, 20.0)
    assert isinstance(back, Error)
    assert back.code is ErrorCode.BUSY


def test_places_are_taken_one_a_second_so_that_nobody_can_drive_out_others_in_a_row() -> None:
    machine = full()
    assert isinstance(answer(machine, "good", 1, 10.0), Verdict)
    assert isinstance(answer(machine, "good", 2, 10.5), Error)
    assert isinstance(answer(machine, "good", 2, 11.1), Verdict)
    assert places(machine) == {"evil": 6, "good": 2}


def test_equal_shares_stay_as_they_are() -> None:
    machine = full(2)
    assert isinstance(answer(machine, "good", 1, 10.0), Verdict)
    assert isinstance(answer(machine, "late", 1, 20.0), Error)
    assert places(machine) == {"evil": 1, "good": 1}


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.integers(2, 9))
def test_in_the_end_nobody_has_two_places_more_than_one_who_is_refused(
    asked: list[str], capacity: int
) -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=capacity, lease=10_000, versions=held(1000)))
    for number, edge in enumerate(asked):
        found = answer(machine, edge, 1 + number, 2.0 * number)
        has = places(machine)
        assert sum(has.values()) <= capacity
        if isinstance(found, Error) and found.code is ErrorCode.BUSY:
            assert max(has.values()) <= has[edge] + 1


def test_a_device_holds_no_more_than_the_settings_allow_however_empty_the_worker_is() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=8, device_sessions=3, versions=held(10_000)))
    for session in (1, 2, 3):
        assert isinstance(answer(machine, "evil", session, 0.0), Verdict)
    more = answer(machine, "evil", 4, 0.0)
    assert isinstance(more, Error)
    assert more.code is ErrorCode.BUSY
    assert more.retry > 0
    assert "as many as one may" in more.detail
    assert machine.counters.over_quota == 1
    assert isinstance(answer(machine, "good", 1, 0.0), Verdict)
    machine.receive("evil", Close(1, 1, 0, CloseReason.DONE), 1.0)
    assert isinstance(answer(machine, "evil", 5, 1.0), Verdict)


def test_tokens_are_bounded_by_device_but_for_its_only_session() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=8, device_tokens=1000, versions=held(10_000)))
    assert isinstance(answer(machine, "evil", 1, 0.0, prompt=5000), Verdict)
    assert isinstance(answer(machine, "evil", 2, 0.0), Error)
    assert isinstance(answer(machine, "good", 1, 0.0, prompt=500), Verdict)
    assert isinstance(answer(machine, "good", 2, 0.0, prompt=500), Error)
    assert isinstance(answer(machine, "good", 3, 0.0, prompt=300), Verdict)


def test_memory_is_shared_as_places_are() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=64, room=64 * 100, versions=held(10_000)))
    for session in range(4):
        assert isinstance(answer(machine, "evil", 1 + session, 0.0, prompt=64 * 24), Verdict)
    assert isinstance(answer(machine, "good", 1, 1.0, prompt=64 * 30), Verdict)
    assert places(machine) == {"evil": 2, "good": 1}  # 25 grains of 100 each, and 31
    # What would be more than the other ones keep is not given.
    assert isinstance(answer(machine, "late", 1, 2.0, prompt=64 * 60), Error)
    assert places(machine) == {"evil": 2, "good": 1}


def test_many_sessions_of_one_device_lengthen_the_hint_of_others_by_one_place() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=2, busy_most=1000.0))
    for edge in ("a", "b"):
        answer(machine, edge, 1, 0.0)
    hints = []
    for session in range(30):
        error = answer(machine, "evil", 1 + session, 10.0)
        assert isinstance(error, Error)
        hints.append(error.retry)
    assert hints == sorted(hints)
    assert hints[-1] == 30 * hints[0]
    good = answer(machine, "good", 1, 10.0)
    assert isinstance(good, Error)
    assert good.retry == 2 * hints[0]


def test_polls_on_each_others_heels_share_an_answer() -> None:
    machine = WorkerMachine(CONFIG)
    hello = answer(machine, "e", 1, 0.0)
    assert isinstance(hello, Verdict)
    answers = 0
    for seq in range(1000):
        now = 1.0 + seq / 2800
        answers += len(machine.tick(now))
        answers += len(machine.receive("e", Poll(1, 1, 2 + seq, 0, 0, hello.digest, (), 0), now))
    answers += len(machine.tick(2.0))
    assert 60 <= answers <= 75  # one each 5 ms of 357, where 1,000 were asked for
    assert len(machine.receive("e", Poll(1, 1, 2000, 0, 0, hello.digest, (), 0), 3.0)) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True))
def test_turns_go_round_by_device(waiting: list[tuple[str, int]]) -> None:
    order = by_device(waiting)
    assert sorted(order) == sorted(waiting)
    for edge in "abc":
        assert [key for key in order if key[0] == edge] == [key for key in waiting if key[0] == edge]
    sessions = Counter(edge for edge, _ in waiting)
    for place in range(len(order)):
        had = Counter(edge for edge, _ in order[:place])
        left = [had[edge] for edge in sessions if had[edge] < sessions[edge]]
        assert had[order[place][0]] == min(left)


def test_a_full_step_takes_a_session_of_each_device_first() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=20))
    for session in range(10):
        answer(machine, "many", 1 + session, 0.1 * session)
    answer(machine, "one", 1, 5.0)
    items = machine.take_work(6.0, 3)
    assert [item.key for item in items] == [("many", 1), ("one", 1), ("many", 2)]


def test_texts_that_are_kept_go_by_device() -> None:
    machine = WorkerMachine(replace(CONFIG, capacity=4, prefixes=4, versions=held(10_000)))
    answer(machine, "good", 1, 0.0)
    machine.receive("good", Close(1, 1, 0, CloseReason.DONE), 0.0)
    for session in range(20):
        answer(machine, "evil", 1 + session, 1.0 + session)
        machine.receive("evil", Close(1 + session, 1, 0, CloseReason.DONE), 1.0 + session)
    assert machine.prefixes == 4
    assert machine._prefixes.drop(machine.versions[0]) == [
        ("good", 1),
        ("evil", 18),
        ("evil", 19),
        ("evil", 20),
    ]


def test_who_has_the_most_goes_first() -> None:
    assert to_go([("a", 1), ("b", 1), ("b", 2), ("a", 2)]) == ("a", 1)
    assert to_go([("a", 1), ("b", 1), ("b", 2)]) == ("b", 1)
