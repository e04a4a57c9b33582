"""Answers that a worker has promised: written for nobody, left once, taken back, within their places."""

import pickle
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq import waiting
from flexspec_mq.protocol.effects import Deliver, WorkerEffect
from flexspec_mq.protocol.worker.deliveries import DeliveryPlaces
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import WorkerState
from lab.simulator.world import held, identity
from schemas.messages import MAX_DELIVERED_TOKENS, Close, CloseReason, Delivery, Error, Fin, Open, Poll
from tests.protocol.builders import CONFIG, answer, batch, decide, digest, item, opened, opening, verdicts

KEEPS = replace(CONFIG, facts=held(2000), capacity=4, deliver_for=100, device_deliveries=2)
KEY = ("e", 1)
LIMIT = 4


def asking(
    *, deliver: int = 500, limit: int = LIMIT, session: int = 1, attempt: int = 1, ahead: int = 0
) -> Open:
    ident = identity(limit=limit, ignore_eos=True)
    message = opening(ident=ident, session=session, attempt=attempt, ahead=ahead)
    return msgspec.structs.replace(message, deliver=deliver)


def left(effects: list[WorkerEffect]) -> list[Delivery | None]:
    return [effect.message for effect in effects if isinstance(effect, Deliver)]


def away(limit: int = LIMIT, ahead: int = 0) -> WorkerMachine:
    """A worker whose device has been silent for long enough."""
    machine = opened(asking(limit=limit, ahead=ahead), KEEPS)
    assert machine.next_tick() == waiting.ANSWER
    assert machine.tick(waiting.ANSWER) == []
    return machine


def written(machine: WorkerMachine, count: int, now: float = 2.0) -> list[WorkerEffect]:
    effects: list[WorkerEffect] = []
    for number in range(count):
        effects += machine.result(item(machine, now), (number,), 1, 2, now)
    return effects


def test_an_accept_says_what_is_granted_and_later_verdicts_do_not() -> None:
    machine = opened(None, KEEPS)
    for message, granted in ((asking(session=2), 100), (asking(deliver=7, session=3), 7)):
        assert verdicts(machine.receive("e", message, 0.0))[0].delivers == granted
    assert verdicts(machine.receive("e", batch((), (), kind=Poll), 0.1))[0].delivers == 0


def test_without_a_promise_nothing_is_written_unasked_and_the_lease_ends() -> None:
    machine = opened(asking(deliver=0, ahead=0), KEEPS)
    written(machine, 1, 0.1)  # the open asked for it
    machine.tick(waiting.ANSWER)
    assert machine.take_work(2.0, 9) == []
    machine.tick(KEEPS.lease)
    assert machine.state(KEY, KEEPS.lease) is WorkerState.TOMB


def test_a_silent_devices_text_is_written_to_its_end_and_left_once() -> None:
    machine = away()
    effects = written(machine, LIMIT, 1000.0)  # whatever the lease
    assert not verdicts(effects), "it has room for nothing"
    assert not left(effects)
    (delivery,) = left(machine.tick(1000.0 + waiting.ANSWER))
    tokens = tuple(range(LIMIT))
    after = digest(tokens, identity(limit=LIMIT, ignore_eos=True))
    assert delivery == Delivery(1, 1, tokens, after, Fin.LENGTH, "w")
    machine.tick(1000.0 + 5 * waiting.ANSWER)
    assert machine.counters.delivered == 1
    machine.tick(1000.0 + KEEPS.lease)
    assert machine.state(KEY, 1000.0 + KEEPS.lease) is WorkerState.TOMB
    assert len(machine.deliveries) == 1
    machine.tick(1001.0 + KEEPS.deliver_for)
    assert not machine.deliveries


def test_verdicts_go_out_as_far_as_the_credit_goes() -> None:
    machine = away(limit=8, ahead=3)
    sent = [verdict.tokens for now in range(2, 9) for verdict in verdicts(written(machine, 1, float(now)))]
    assert sent == [(0,), (0,), (0,)]


def test_a_device_that_speaks_again_is_told_all_and_asked_for_drafts() -> None:
    machine = away(limit=1000)
    written(machine, 700)
    messages = verdicts(machine.receive("e", batch((), (), kind=Poll), 3.0))
    assert [len(message.tokens) for message in messages] == [320, 320, 60]
    assert machine.take_work(3.0, 9) == [], "by its credit again"
    machine.tick(3.0 + waiting.ANSWER)
    assert machine.take_work(4.0, 9)


def test_a_draft_that_the_worker_has_overtaken_is_answered() -> None:
    machine = away(limit=50)
    written(machine, 5)
    (message,) = verdicts(machine.receive("e", batch((), (0, 1)), 3.0))
    assert message.tokens == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("reason", list(CloseReason))
@pytest.mark.parametrize("wait", [0.0, waiting.ANSWER, 1000.0])
def test_a_close_takes_the_answer_back_whenever_it_comes(reason: CloseReason, wait: float) -> None:
    machine = away()
    written(machine, LIMIT, 3.0)
    was_left = left(machine.tick(3.0 + wait))
    machine.tick(3.0 + wait + KEEPS.lease * (wait > 900))
    effects = machine.receive("e", Close(1, 1, 0, reason), 5.0 + wait)
    assert left(effects) == (
        [None] if was_left or (wait > 900 and reason is not CloseReason.ELSEWHERE) else []
    )
    assert not machine.deliveries
    assert machine.state(KEY, 5.0 + wait) is WorkerState.TOMB


def test_what_another_worker_may_have_left_is_cleared_by_who_ends_the_text() -> None:
    machine = opened(asking(attempt=2), KEEPS)
    assert left(machine.receive("e", Close(1, 2, 0, CloseReason.ELSEWHERE), 0.1)) == []
    for attempt, cleared in ((1, []), (2, [None])):
        machine = opened(asking(attempt=attempt), KEEPS)
        assert left(machine.receive("e", Close(1, attempt, 0, CloseReason.DONE), 0.1)) == cleared


def test_a_worker_that_goes_leaves_what_there_is() -> None:
    machine = away(limit=50)
    written(machine, 5)
    effects = machine.release(3.0)
    assert isinstance(answer(effects), Error)
    (delivery,) = left(effects)
    assert delivery is not None
    assert (delivery.tokens, delivery.fin) == ((0, 1, 2, 3, 4), Fin.NONE)
    machine = away(limit=50)
    assert left(machine.release(3.0)) == [], "nothing that the device lacks"


def test_what_the_broker_does_not_take_is_tried_again_while_the_session_is_here() -> None:
    machine = away()
    written(machine, LIMIT, 3.0)
    now = 3.0
    for _ in range(3):
        now += waiting.ANSWER
        assert len(left(machine.tick(now))) == 1
        machine.undelivered(KEY, now, again=True)
        assert not machine.deliveries
    machine.tick(now + waiting.ANSWER)
    machine.undelivered(KEY, now, again=False)
    assert left(machine.tick(now + 5)) == []
    machine.undelivered(("e", 99), now, again=True)


def test_a_device_that_opens_again_has_its_answer_left_again() -> None:
    machine = away()
    written(machine, LIMIT, 3.0)
    assert len(left(machine.tick(4.0))) == 1
    accept = verdicts(machine.receive("e", asking(attempt=2), 5.0))[0]
    assert (accept.delivers, accept.tokens) == (100, (0, 1, 2, 3))
    assert len(left(machine.tick(5.0 + waiting.ANSWER))) == 1
    decided = machine.counters.decided
    assert left(machine.receive("e", Close(1, 2, 4, CloseReason.DONE), 7.0)) == [None]
    assert machine.counters.decided == decided


def test_answers_that_were_fetched_are_forgotten() -> None:
    places = DeliveryPlaces(KEEPS)
    for number in range(1000):
        places.grant(("e", number), asking())
        places.kept(("e", number), LIMIT, 1e6)
        places.leave(("e", number))
    assert len(pickle.dumps(places)) < 2000


def test_a_failed_forward_gives_the_place_back() -> None:
    machine = away()
    machine.failed(item(machine, 2.0), 2.0)
    assert not machine.deliveries
    assert decide(opened(asking(session=1), KEEPS), 1)


def test_a_device_has_so_many_places_of_so_many_tokens_where_answers_are_delivered() -> None:
    places = DeliveryPlaces(replace(KEEPS, deliver_bytes=10**9))
    assert [places.grant(("e", session), asking()) for session in range(3)] == [100, 100, 0]
    assert places.grant(("f", 1), asking(limit=MAX_DELIVERED_TOKENS + 1)) == 0
    assert places.grant(("f", 1), asking(limit=MAX_DELIVERED_TOKENS)) == 100
    assert DeliveryPlaces(replace(KEEPS, deliver_for=0)).grant(("e", 1), asking()) == 0


SESSIONS = st.tuples(st.sampled_from("ab"), st.integers(1, 4))
STEPS = st.one_of(
    st.tuples(st.just("grant"), SESSIONS, st.sampled_from((1, 100, 900, MAX_DELIVERED_TOKENS + 1))),
    st.tuples(st.just("keep"), SESSIONS, st.integers(1, 50)),
    st.tuples(st.just("leave"), SESSIONS, st.just(0)),
    st.tuples(st.just("wait"), SESSIONS, st.integers(1, 60)),
)


@given(st.lists(STEPS, max_size=60))
def test_places_are_counted_and_bounded(steps: list[tuple[str, tuple[str, int], int]]) -> None:
    places, now = DeliveryPlaces(replace(KEEPS, deliver_bytes=10_000)), 0.0
    model: dict[tuple[str, int], tuple[int, float]] = {}
    for what, key, number in steps:
        if what == "grant":
            model.pop(key, None)
            size, mine = 1024 + 4 * number, sum(other[0] == key[0] for other in model)
            room = mine < 2 and sum(nbytes for nbytes, _ in model.values()) + size <= 10_000
            granted = places.grant(key, asking(limit=number))
            assert granted == (100 if room and number <= MAX_DELIVERED_TOKENS else 0)
            if granted:
                model[key] = size, float("inf")
        elif what == "keep" and key in model:
            places.kept(key, 10, now + number)
            model[key] = 1064, now + number
        elif what == "leave":
            places.leave(key)
            model.pop(key, None)
        elif what == "wait":
            now += number
            places.expire(now)
            model = {other: place for other, place in model.items() if place[1] > now}
        assert len(places) == len(model)
        assert places.nbytes == sum(nbytes for nbytes, _ in model.values())
        assert places._of_device == Counter(edge for edge, _ in model)
