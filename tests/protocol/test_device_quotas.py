"""Room for one more session: who has to make it, what an edge is told where there is none, and shares of devices."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq import waiting
from flexspec_mq.protocol.effects import Deliver, Free, Reply
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.turns import by_device, to_go
from lab.simulator.world import held, identity
from schemas.messages import Close, CloseReason, Error, ErrorCode, Fin, Open, Poll, Verdict
from tests.protocol.builders import CONFIG, answer


def worker(capacity: int = 99, **settings: Any) -> WorkerMachine:
    return WorkerMachine(replace(CONFIG, capacity=capacity, facts=held(10_000), **settings))


def opening(session: int, prompt: int = 3, deliver: int = 0, attempt: int = 1) -> Open:
    return Open(session, attempt, identity(limit=20), (1,) * prompt, (), 4, 1, (), deliver=deliver)


def asked(
    machine: WorkerMachine, session: int, now: float = 0.0, edge: str = "e", prompt: int = 3, **more: int
) -> Verdict | Error:
    """Answer to an edge that opens a session: its first verdict, or an error."""
    return answer(machine.receive(edge, opening(session, prompt, **more), now), edge)


def taken(
    machine: WorkerMachine, session: int, now: float = 0.0, edge: str = "e", prompt: int = 3, **more: int
) -> bool:
    """Whether a session is taken; otherwise its edge is told that the worker is busy."""
    message = asked(machine, session, now, edge, prompt, **more)
    assert isinstance(message, Verdict) or message.code is ErrorCode.BUSY
    return isinstance(message, Verdict)


def hint(machine: WorkerMachine, session: int, now: float, edge: str = "e") -> int:
    """The ms after which an edge that is refused shall come back."""
    error = asked(machine, session, now, edge)
    assert isinstance(error, Error)
    assert error.code is ErrorCode.BUSY
    return error.retry


def close(machine: WorkerMachine, session: int, now: float, edge: str = "e") -> None:
    machine.receive(edge, Close(session, 1, 0, CloseReason.DONE), now)


def places(machine: WorkerMachine) -> Counter[str]:
    return Counter(edge for edge, _ in machine.sessions)


def full(capacity: int = 8) -> WorkerMachine:
    """A worker whose places one device has taken."""
    machine = worker(capacity)
    assert all(taken(machine, 1 + session, float(session), "evil") for session in range(capacity))
    return machine


def test_sessions_are_taken_as_long_as_their_tokens_fit_by_whole_grains() -> None:
    machine = worker(room=6 * 64)
    for session, prompt in ((1, 63), (2, 64), (3, 100)):  # with their next token: 64, 128 and 128
        assert taken(machine, session, prompt=prompt)
    assert not taken(machine, 4, prompt=64)
    assert taken(machine, 5, prompt=63)
    assert hint(machine, 6, 1.0) > 0
    close(machine, 1, 2.0)
    assert taken(machine, 6, 2.0)


def test_a_session_that_can_never_fit_is_told_so_and_not_to_come_back() -> None:
    error = asked(worker(room=64), 1, prompt=45)
    assert isinstance(error, Error)
    assert error.code is ErrorCode.CONTEXT
    assert "KV cache" in error.detail


def test_the_hint_follows_how_long_sessions_live() -> None:
    hints = []
    for life in (0.4, 1.6, 6.4):
        machine = worker(2)
        for turn in range(6):
            for session in (1, 2):
                asked(machine, 10 * turn + session, turn * life)
            for session in (1, 2):
                close(machine, 10 * turn + session, (turn + 1) * life)
        for session in (91, 92):
            asked(machine, session, 100.0)
        hints.append(hint(machine, 93, 100.0))
    assert hints == [200, 800, 3200]  # one of two sessions ends in half a life


def test_sessions_that_live_longer_than_those_before_lengthen_the_hint() -> None:
    machine = worker(2)
    asked(machine, 1, 0.0)
    close(machine, 1, 0.1)
    asked(machine, 2, 1.0)
    asked(machine, 3, 1.0)
    assert hint(machine, 4, 1.0) == 50
    assert hint(machine, 4, 3.0) == 1000


def test_who_waits_already_goes_first_and_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "BUSY", (0.05, 60.0))
    machine = worker(2)
    asked(machine, 1, 0.0)
    asked(machine, 2, 0.0, edge="f")
    hints = [hint(machine, session, 2.0, edge=f"e{session}") for session in range(3, 9)]
    assert hints == [1000, 2000, 3000, 4000, 5000, 6000]
    assert hint(machine, 3, 2.0, edge="e3") == 6000  # the others are before it now
    # Edges that did not come back are forgotten when their time is over.
    assert hint(machine, 99, 20.0) == 10_000


def test_hints_are_bounded_and_a_fixed_one_where_nothing_is_known() -> None:
    machine = worker(1)
    asked(machine, 1, 0.0)
    assert hint(machine, 2, 0.0) == 1000 * (waiting.ANSWER / 2)
    assert hint(machine, 2, 0.001) == 50
    assert hint(machine, 2, 1000.0) == 5000
    hints = [hint(machine, 2, now) for now in (1.0, 2.0, 3.0)]
    assert all(before <= after for before, after in pairwise(hints))


def test_many_sessions_of_one_device_lengthen_the_hint_of_others_by_one_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "BUSY", (0.05, 1000.0))
    machine = worker(2)
    for edge in ("a", "b"):
        asked(machine, 1, edge=edge)
    hints = [hint(machine, 1 + session, 10.0, "evil") for session in range(30)]
    assert hints == sorted(hints)
    assert hints[-1] == 30 * hints[0]
    assert hint(machine, 1, 10.0, "good") == 2 * hints[0]


def test_a_newcomer_takes_the_newest_place_of_who_holds_most_and_that_one_is_told() -> None:
    machine = full()
    effects = machine.receive("good", opening(1), 10.0)
    assert places(machine) == {"evil": 7, "good": 1}
    gone, accept = [effect for effect in effects if isinstance(effect, Reply)]
    assert gone.edge == "evil"
    assert isinstance(gone.message, Error)
    assert (gone.message.session, gone.message.code) == (8, ErrorCode.UNKNOWN)
    assert isinstance(accept.message, Verdict)
    assert Free(("evil", 8)) in effects
    assert machine.counters.yielded == 1
    # It cannot take the place back: it holds more than the other one.
    assert not taken(machine, 9, 20.0, "evil")


def test_places_are_taken_one_a_second_so_that_nobody_can_drive_out_others_in_a_row() -> None:
    machine = full()
    got = [taken(machine, 1 + (now > 10.0), now, "good") for now in (10.0, 10.5, 11.1)]
    assert got == [True, False, True]
    assert places(machine) == {"evil": 6, "good": 2}


def test_equal_shares_stay_as_they_are() -> None:
    machine = full(2)
    assert taken(machine, 1, 10.0, "good")
    assert not taken(machine, 1, 20.0, "late")
    assert places(machine) == {"evil": 1, "good": 1}


def test_places_of_a_device_that_left_are_for_whoever_wants_them_at_once() -> None:
    """Its texts, which are to be delivered, are left as far as they are written; it is told, and goes on elsewhere."""
    machine = worker(64, deliver_for=3600, device_deliveries=64)
    held = [taken(machine, session, session / 1000, "evil", deliver=3600) for session in range(1, 201)]
    assert held == [True] * 64 + [False] * 136
    machine.tick(waiting.ANSWER + 0.1)
    assert taken(machine, 1, 2.0, "good")  # by its share, and one a second
    assert not taken(machine, 2, 2.0, "good")
    assert places(machine) == {"evil": 63, "good": 1}
    for item in machine.take_work(3.0, 2):  # one of each
        machine.result(item, (7,), 0, 0, 3.0)
    left = machine.receive("good", opening(2), 480.0)
    left += [
        effect for session in range(3, 65) for effect in machine.receive("good", opening(session), 480.0)
    ]
    assert places(machine) == {"good": 64}
    told = [effect.message for effect in left if isinstance(effect, Reply) and effect.edge == "evil"]
    assert [isinstance(one, Error) and one.code for one in told] == [ErrorCode.UNKNOWN] * 63
    (parked,) = [effect for effect in left if isinstance(effect, Deliver)]
    assert parked.message is not None
    assert (parked.key, parked.message.tokens, parked.message.fin) == (("evil", 1), (7,), Fin.NONE)
    # Others who are there go by shares, as ever; a device that is back has its own.
    assert not taken(machine, 65, 490.0, "good")
    assert taken(machine, 1, 490.0, "evil", attempt=2)


STEPS = st.tuples(st.sampled_from("abc"), st.sampled_from(("opens", "opens", "speaks", "waits")))


@given(st.lists(STEPS, max_size=60), st.integers(1, 6))
def test_who_is_refused_meets_only_devices_that_are_there(
    steps: list[tuple[str, str]], capacity: int
) -> None:
    machine = worker(capacity, deliver_for=3600, device_deliveries=99)
    now, heard = 0.0, dict.fromkeys("abc", 0.0)  # by sessions that are here
    for session, (edge, what) in enumerate(steps, 1):
        if what == "waits":
            now += 2.0
            while (due := machine.next_tick()) is not None and due <= now:
                machine.tick(due)
        elif what == "speaks":
            for own in [own for device, own in machine.sessions if device == edge]:
                heard[edge] = now
                asked(machine, own, now, edge, deliver=3600)
        else:
            away = {one for one in "abc" if now >= heard[one] + waiting.ANSWER + 5 * waiting.ANSWER} - {edge}
            before, got, after = (
                places(machine),
                taken(machine, session, now, edge, deliver=3600),
                places(machine),
            )
            heard[edge] = now if got else heard[edge]
            lost = {device for device in before if after[device] < before[device]}
            assert got or not away & after.keys()
            assert lost <= away or not away & after.keys()
            assert all(after[device] >= after[edge] for device in lost - away)


@given(st.lists(st.sampled_from("abcd"), max_size=80), st.integers(2, 9))
def test_in_the_end_nobody_has_two_places_more_than_one_who_is_refused(
    edges: list[str], capacity: int
) -> None:
    machine = worker(capacity, lease=10_000)
    for number, edge in enumerate(edges):
        refused = not taken(machine, 1 + number, 2.0 * number, edge)
        has = places(machine)
        assert sum(has.values()) <= capacity
        assert not refused or max(has.values()) <= has[edge] + 1


def test_a_device_holds_no_more_than_the_settings_allow_however_empty_the_worker_is() -> None:
    machine = worker(8, device_sessions=3)
    assert all(taken(machine, session, edge="evil") for session in (1, 2, 3))
    more = asked(machine, 4, edge="evil")
    assert isinstance(more, Error)
    assert (more.code, more.retry > 0) == (ErrorCode.BUSY, True)
    assert "as many as one may" in more.detail
    assert machine.counters.over_quota == 1
    assert taken(machine, 1, edge="good")
    close(machine, 1, 1.0, "evil")
    assert taken(machine, 5, 1.0, "evil")


def test_tokens_are_bounded_by_device_but_for_its_only_session() -> None:
    machine = worker(8, device_tokens=1000)
    assert taken(machine, 1, edge="evil", prompt=5000)
    assert not taken(machine, 2, edge="evil")
    assert taken(machine, 1, edge="good", prompt=500)
    assert not taken(machine, 2, edge="good", prompt=500)
    assert taken(machine, 3, edge="good", prompt=300)


def test_memory_is_shared_as_places_are() -> None:
    machine = worker(64, room=64 * 100)
    assert all(taken(machine, session, 0.0, "evil", 64 * 24) for session in (1, 2, 3, 4))
    assert taken(machine, 1, 1.0, "good", 64 * 30)
    assert places(machine) == {"evil": 2, "good": 1}  # 25 grains of 100 each, and 31
    # A device gets no more memory than the others keep.
    assert not taken(machine, 1, 2.0, "late", 64 * 60)
    assert places(machine) == {"evil": 2, "good": 1}


def test_polls_on_each_others_heels_share_an_answer() -> None:
    machine = worker(2)
    accept = asked(machine, 1)
    assert isinstance(accept, Verdict)
    answers = 0
    for seq in range(1000):
        now = 1.0 + seq / 2800
        answers += len(machine.tick(now))
        answers += len(machine.receive("e", Poll(1, 1, 2 + seq, 0, 0, accept.digest, (), 0), now))
    answers += len(machine.tick(2.0))
    assert 60 <= answers <= 75  # one each 5 ms of 357, where 1,000 were asked for
    assert len(machine.receive("e", Poll(1, 1, 2000, 0, 0, accept.digest, (), 0), 3.0)) == 1


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


def test_a_step_takes_a_session_of_each_device_first_and_one_item_of_each_session() -> None:
    machine = worker(20)
    for session in range(3):
        asked(machine, 1 + session, 0.1 * session, "many")
    asked(machine, 1, 5.0, "one")
    keys = [[item.key for item in machine.take_work(6.0, 3)] for _ in range(3)]
    assert keys == [[("many", 1), ("one", 1), ("many", 2)], [("many", 3)], []]


def test_a_step_takes_the_devices_that_have_waited_longest() -> None:
    machine = worker()
    for number, edge in enumerate(("first", "second", "third")):
        asked(machine, 1, float(number), edge)
    (item,) = machine.take_work(5.0, 1)
    machine.result(item, (7,), 0, 0, 6.0)  # from now on it waits for its next token
    edges = [[item.key[0] for item in machine.take_work(7.0, 2)] for _ in range(2)]
    assert edges == [["second", "third"], ["first"]]


def test_texts_that_are_kept_go_by_device() -> None:
    machine = worker(4, prefixes=4)
    for edge, count in (("good", 1), ("evil", 20)):
        for session in range(1, count + 1):
            asked(machine, session, float(session), edge)
            close(machine, session, float(session), edge)
    assert machine.prefixes == 4
    kept = machine._prefixes.drop(machine.versions[0])
    assert kept == [("good", 1), ("evil", 18), ("evil", 19), ("evil", 20)]


def test_who_has_the_most_goes_first() -> None:
    assert to_go([("a", 1), ("b", 1), ("b", 2), ("a", 2)]) == ("a", 1)
    assert to_go([("a", 1), ("b", 1), ("b", 2)]) == ("b", 1)
