"""How long a user waits for a session, and what they see of a draft that writes alone, one rule at a time."""

import random
from collections.abc import Callable, Iterable
from statistics import geometric_mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.node import ProvisionalShare
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LinkDown, WorkerError
from flexspec_mq.protocol.edge.patience import Patience, Waits
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import DraftToken
from flexspec_mq.protocol.effects import Effect, Finish, FinishReason, ProvisionalDraft
from lab.simulator.world import identity
from schemas.messages import Close, Error, ErrorCode, Open, Poll
from tests.protocol.builders import batches, committed, give, sent, session, started, verdict


def finish_of(effects: Iterable[Effect]) -> Finish:
    (finish,) = (effect for effect in effects if isinstance(effect, Finish))
    return finish


@pytest.mark.parametrize("patience", [None, 25.0])
@pytest.mark.parametrize("begun", [True, False])
def test_an_outage_is_waited_out_for_the_requests_patience(patience: float | None, begun: bool) -> None:
    machine = started(Plan(0, 1)) if begun else session()
    user = Patience(machine, waits=Waits.of(patience))
    machine.link_down(0.0)
    if not begun:
        machine.start(0.0)
    ends = user.next_tick()
    assert ends == user.gives_up_at == pytest.approx(patience or 120.0, abs=0.2)
    (finish,) = user.tick(ends)
    assert isinstance(finish, Finish)
    assert isinstance(finish.error, LinkDown)


@pytest.mark.parametrize(("patience", "ends"), [(None, 900.0), (40.0, 40.0)])
def test_a_busy_worker_is_waited_for_longer_unless_the_request_says_how_long(
    patience: float | None, ends: float
) -> None:
    machine, now = session(), 0.0
    user = Patience(machine, waits=Waits.of(patience))
    machine.start(now)
    while machine.finished is None:
        assert now < 2000.0
        effects = user.tick(now)
        for send in sent(effects, Open):
            machine.receive(Error(1, send.message.attempt, ErrorCode.BUSY, 500, "w"), now)
        now = user.next_tick() if machine.finished is None else now
    assert now == pytest.approx(ends, rel=0.05)
    assert "too much to do" in str(finish_of(effects).error)


@pytest.mark.parametrize("patience", [None, 30.0])
def test_no_worker_fails_with_a_hint_after_the_requests_patience(patience: float | None) -> None:
    machine = session()
    user = Patience(machine, waits=Waits.of(patience))
    machine.start(0.0)
    opens, now = 1, 0.0
    while machine.finished is None:
        machine.no_worker(now)
        now = user.next_tick()
        effects = user.tick(now)
        opens += len(sent(effects, Open))
    assert now == pytest.approx(patience or 120.0)
    assert 4 <= opens <= 22
    finish = finish_of(effects)
    assert finish.reason is FinishReason.FAILED
    assert isinstance(finish.error, WorkerError)
    assert "no worker serves v" in str(finish.error)


def test_what_went_wrong_at_the_workers_is_said_when_the_patience_is_over() -> None:
    machine, now = started(), 0.2
    user = Patience(machine, waits=Waits.of(4.0))
    why = "http://127.0.0.1:8000 answered 400: no such model"
    machine.receive(Error(1, 1, ErrorCode.INTERNAL, 0, "w", why), now)
    effects: list[Effect] = []
    while machine.finished is None:
        now = user.next_tick()
        effects = user.tick(now)
    finish = finish_of(effects)
    assert isinstance(finish.error, WorkerError)
    assert why in finish.error.message
    assert "access rules" not in finish.error.hint


def test_a_worker_that_vanishes_for_good_fails_the_session() -> None:
    machine = started(Plan(0, 1))
    user, now = Patience(machine), 0.1
    while machine.finished is None:
        now = user.next_tick()
        user.tick(now)
    assert machine.finished is FinishReason.FAILED
    assert now == pytest.approx(120.1, abs=0.1)


def test_answers_without_tokens_keep_a_text_for_two_minutes_and_no_longer() -> None:
    machine, attempt, now = started(Plan(0, 1)), 1, 0.1
    user = Patience(machine)
    while machine.finished is None and now < 500.0:
        now = min(now + 1.0, user.next_tick())
        attempt += len(sent(user.tick(now), Open))
        machine.receive(verdict((), (), attempt=attempt, worker="w"), now)
    assert machine.finished is FinishReason.FAILED
    assert now == pytest.approx(120.1, abs=0.1)


def test_a_deadline_closes_the_worker() -> None:
    machine = started()
    user = Patience(machine, deadline=5.0)
    effects = user.tick(5.0)
    assert len(sent(effects, Close)) == 1
    assert (machine.finished, user.next_tick()) == (FinishReason.DEADLINE, float("inf"))


def provisional(effects: Iterable[Effect]) -> list[tuple[int, tuple[int, ...]]]:
    return [(effect.start, effect.tokens) for effect in effects if isinstance(effect, ProvisionalDraft)]


def alone(
    seconds: float | None = None,
    fallback: Callable[[], int] = lambda: 6,
    share: ProvisionalShare | None = None,
) -> tuple[EdgeSession, Patience]:
    """Adopted, three tokens in, and without a link since 0.3; the draft may write six tokens alone."""
    machine = started(Plan(2, 1))
    machine.receive(verdict((), (7, 8, 9)), 0.2)
    machine.link_down(0.3)
    return machine, Patience(machine, waits=Waits.of(seconds), fallback=fallback, share=share)


def test_the_draft_writes_on_when_nobody_has_answered_for_a_moment() -> None:
    machine, user = alone()
    user.watch(give(machine, 1, 2))
    assert machine.draft_request() is None, "K is the plan's until then"
    due = user.next_tick()
    assert provisional(user.tick(due - 0.01)) == []
    assert provisional(user.tick(due)) == [(3, (1, 2))], "what stands already is shown"
    wanted = machine.draft_request()
    assert wanted is not None
    assert wanted.model_only
    assert provisional(user.watch(give(machine, DraftToken(3, 0.001), now=due))) == [(5, (3,))]
    assert provisional(user.watch(give(machine, 4, 5, 6, now=due))) == [(6, (4, 5, 6))]
    assert user.wrote_alone, "six are all that it may"
    assert machine.committed == (7, 8, 9)
    assert provisional(user.tick(due + 1)) == [], "one silence has it begin once"


def test_what_the_draft_wrote_alone_goes_out_at_once_and_stays_as_far_as_the_target_agrees() -> None:
    share = ProvisionalShare()
    machine, user = alone(share=share)
    user.tick(5.0)
    user.watch(give(machine, 1, 2, 3, 4, 5, 6, now=5.0))
    back = machine.link_up(6.0)
    assert len(sent(back, Poll)) == 1
    sent_back = batches(machine.receive(verdict((7, 8, 9), ()), 6.1))
    assert sent_back == [(3, (1, 2, 3, 4, 5, 6))]
    agreed = user.watch(machine.receive(verdict((7, 8, 9), (1, 2)), 6.2))
    assert (committed(agreed), provisional(agreed)) == ((1, 2), [])
    differs = user.watch(machine.receive(verdict((7, 8, 9, 1, 2), (3, 99)), 6.3))
    assert (committed(differs), provisional(differs)) == ((3, 99), [(7, ())])
    user.watch(machine.receive(verdict((7, 8, 9, 1, 2, 3, 99), (4,)), 6.4))
    assert (user.shown, user.confirmed) == (6, 3)
    assert share.share == pytest.approx(0.5, abs=0.01)


def test_what_stands_in_two_silences_is_shown_again_and_counted_once() -> None:
    machine, user = alone()
    user.tick(5.0)
    user.watch(give(machine, 1, 2, 3, 4, 5, 6, now=5.0))
    machine.link_up(6.0)
    user.watch(machine.receive(verdict((7, 8, 9), (1, 2)), 6.2))
    machine.link_down(6.3)
    assert provisional(user.tick(20.0)) == [(5, (3, 4, 5, 6))]
    assert user.shown == 6


def test_nothing_is_drafted_behind_a_long_draft_that_nobody_has_looked_at() -> None:
    machine, user = alone()
    user.tick(5.0)
    give(machine, 1, 2, 3, now=5.0)
    machine.link_up(6.0)
    machine.receive(verdict((7, 8, 9), ()), 6.1)
    assert machine.draft_request() is None
    machine.receive(verdict((7, 8, 9), (1, 2, 3, 4)), 6.2)
    assert machine.draft_request() is not None


@pytest.mark.parametrize(("most", "ends"), [(6, FinishReason.PROVISIONAL), (0, FinishReason.FAILED)])
def test_a_text_whose_patience_is_over_ends_as_provisional_if_the_draft_has_written(
    most: int, ends: FinishReason
) -> None:
    machine, user = alone(seconds=10.0, fallback=lambda: most)
    user.tick(5.0)
    if most:
        user.watch(give(machine, 1, 2, now=5.0))
    assert finish_of(user.tick(20.0)).reason is ends
    assert machine.committed == (7, 8, 9)


def test_a_text_begins_with_the_draft_alone_where_nobody_can_be_reached() -> None:
    ident = identity(limit=100)
    machine = session(Plan(2, 1), identity=ident)
    user = Patience(machine, fallback=lambda: 70)
    machine.link_down(0.0)
    machine.start(0.0)
    user.tick(3.0)
    drafted = random.Random(1).choices(range(1, 31), k=70)
    give(machine, *drafted, now=3.0)
    (opened,) = sent(machine.link_up(4.0) + user.tick(5.0), Open)
    assert isinstance(opened.message, Open)
    assert opened.message.draft == tuple(drafted[:64])
    rest = batches(machine.receive(verdict((), (), worker="w", ident=ident), 5.1))
    assert rest == [(64, tuple(drafted[64:]))]


def alone_from_the_start(most: int = 500) -> tuple[EdgeSession, Patience]:
    """A session that nobody serves, and whose draft writes from its beginning."""
    machine = session(Plan(2, 1), identity=identity(limit=1000, ignore_eos=True))
    user = Patience(machine, fallback=lambda: most)
    machine.link_down(0.0)
    machine.start(0.0)
    user.tick(3.0)
    return machine, user


@given(st.lists(st.integers(1, 30), min_size=16, max_size=30, unique=True), st.integers(0, 40))
def test_a_draft_that_writes_alone_stops_where_it_goes_in_circles(circle: list[int], between: int) -> None:
    machine, user = alone_from_the_start()
    said = [*circle, *range(31, 31 + between), *circle[:16]]
    user.watch(give(machine, *said[:-1], now=3.0))
    assert (user.wrote_alone, user.stopped) == (False, "")
    user.watch(give(machine, said[-1], now=3.0))
    assert (user.wrote_alone, user.stopped) == (True, "repeats")


@given(st.lists(st.floats(0.01, 1.0), min_size=8, max_size=40))
def test_a_draft_that_writes_alone_stops_where_it_is_unsure_of_itself(sure: list[float]) -> None:
    machine, user = alone_from_the_start()
    for place, each in enumerate(sure):
        last = sure[max(0, place - 8) : place]
        unsure = len(last) == 8 and geometric_mean(last) < 0.3
        assert user.wrote_alone is unsure
        if unsure:
            assert user.stopped == "unsure"
            return
        user.watch(give(machine, DraftToken(1 + place, sure=each), now=3.0))


def test_a_draft_that_has_written_what_it_may_says_so() -> None:
    machine, user = alone_from_the_start(most=3)
    user.watch(give(machine, 1, 2, 3, now=3.0))
    assert user.stopped == "limit"
    machine.link_up(4.0)
    user.watch(machine.receive(verdict((), (), worker="w", ident=identity(limit=1000, ignore_eos=True)), 4.1))
    assert user.stopped == "limit", "as of the last silence"
