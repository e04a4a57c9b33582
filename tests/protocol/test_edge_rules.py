"""The edge machine, one rule at a time."""

import msgspec
import pytest

from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError, WorkerError
from flexspec_mq.protocol.edge.session import close_unknown
from flexspec_mq.protocol.edge.types import DraftToken, EdgeState
from flexspec_mq.protocol.effects import Commit, Finish, FinishReason, Send
from flexspec_mq.protocol.table import UnexpectedEvent
from lab.simulator.world import EOS
from schemas.messages import Close, CloseReason, Delivery, Draft, Error, ErrorCode, Fin, Open, Poll, Verdict
from tests.protocol.builders import PROMPT, batches, committed, digest, give, sent, session, started, verdict


def test_an_open_goes_to_the_shared_topic_with_what_is_committed() -> None:
    effects = session(committed=(5, 6)).start(0.0)
    (open_,) = sent(effects, Open)
    assert open_.to_worker is None
    assert isinstance(open_.message, Open)
    assert (open_.message.attempt, open_.message.committed, open_.message.prompt) == (1, (5, 6), PROMPT)


def test_tokens_decided_on_another_prefix_never_commit_and_their_attempt_is_left() -> None:
    machine = started()
    machine.receive(verdict((), (7,)), 0.2)
    effects = machine.receive(verdict((8,), (9,)), 0.3)
    assert committed(effects) == ()
    (again,) = sent(effects, Open)
    assert isinstance(again.message, Open)
    assert (again.message.attempt, again.message.committed) == (2, (7,))
    machine.receive(verdict((), (7,), attempt=1, worker="w"), 0.4)
    assert machine.worker is None
    machine.receive(verdict((7,), (), attempt=2, worker="w"), 0.5)
    assert machine.committed == (7,)
    assert machine.worker == "w"


def test_a_verdict_beyond_our_chain_asks_once_until_there_is_progress() -> None:
    machine = started()
    first = machine.receive(verdict((7, 8), (9,)), 0.2)
    assert committed(first) == ()
    assert len(sent(first, Poll)) == 1
    assert sent(machine.receive(verdict((7, 8, 9), (4,)), 0.21), Poll) == []
    assert committed(machine.receive(verdict((), (7, 8, 9, 4)), 0.3)) == (7, 8, 9, 4)


@pytest.mark.parametrize("attempt", [2, 3])
def test_after_silence_who_speaks_first_is_adopted_and_any_attempt_may_commit(attempt: int) -> None:
    """The worker that was silent by a word of its attempt; another by its accept, also a late one."""
    for returns in (True, False):
        machine = started(Plan(0, 2))
        opened = [send for at in (1.2, 2.3) for send in sent(machine.tick(at), Open)]
        assert (machine.state, len(opened)) == (EdgeState.OPENING, 2)
        if returns:
            effects = machine.receive(verdict((), (7,), attempt=1), 2.4)
            assert (committed(effects), machine.worker) == ((7,), "w")
            late = machine.receive(verdict((), (), attempt=attempt, worker="x"), 2.5)
            assert [send.to_worker for send in sent(late, Close)] == ["x"]
        else:
            effects = machine.receive(verdict((), (), attempt=attempt, worker="x"), 2.4)
            assert [send.to_worker for send in sent(effects, Close)] == ["w"]
            effects = machine.receive(verdict((), (7,), attempt=1), 2.5)
            assert (committed(effects), machine.worker) == ((7,), "x")
            assert batches(effects) == [(0, (7,))], "it is not believed to hold what the other one decided"
    assert sent(effects, Draft)[0].to_worker == "x"


def test_a_wrong_branch_is_rolled_back_and_a_right_one_kept() -> None:
    machine = started(Plan(2, 2))
    machine.receive(verdict((), (7,)), 0.15)
    assert batches(give(machine, 8, 9)) == [(1, (8, 9))]
    right = machine.receive(verdict((7,), (8,)), 0.3)
    assert [e.writers for e in right if isinstance(e, Commit)] == [("device",)]
    wrong = machine.receive(verdict((7, 8), (5,)), 0.4)
    assert [e.writers for e in wrong if isinstance(e, Commit)] == [("target",)]
    wanted = machine.draft_request()
    assert wanted is not None
    assert (wanted.start, tuple(wanted.context)) == (3, (*PROMPT, 7, 8, 5))


def test_a_draft_for_a_prefix_that_is_gone_is_stale() -> None:
    machine = started()
    wanted = machine.draft_request()
    assert wanted is not None
    machine.receive(verdict((), (7,)), 0.2)
    assert machine.drafted(wanted.start, wanted.digest, DraftToken(9), 0.3) == []
    assert machine.counters.stale == 1


def test_a_text_that_ends_closes_the_session_at_its_worker() -> None:
    machine = started(finish_at=lambda text: len(text) if text[-1] == 5 else None)
    effects = machine.receive(verdict((), (7, 5, 8)), 0.2)
    assert committed(effects) == (7, 5)
    assert Finish(FinishReason.STOP) in effects
    (close,) = sent(effects, Close)
    assert isinstance(close.message, Close)
    assert (close.to_worker, close.message.have, close.message.reason) == ("w", 2, CloseReason.DONE)


def test_a_worker_that_ends_a_text_which_does_not_end_is_left() -> None:
    machine = started()
    effects = machine.receive(verdict((), (7,), fin=Fin.EOS), 0.2)
    assert machine.finished is None
    assert len(sent(effects, Open)) == 1


def test_lasting_divergence_is_an_error_and_no_loop() -> None:
    machine = started()
    opens, now = 1, 0.2
    for attempt in range(1, 20):
        effects = machine.receive(verdict((), (7,), attempt=attempt, worker="w", end=1), now)
        while machine.finished is None and not sent(effects, Open):
            now = machine.next_tick() or now
            effects = machine.tick(now)
        if machine.finished is not None:
            break
        opens += 1
        now += 0.01
    assert machine.finished is FinishReason.FAILED
    assert opens == 6
    assert now > 2, "opens must be spaced out"


def test_the_first_accept_is_adopted_and_others_are_closed() -> None:
    machine = started()
    effects = machine.receive(verdict((), (), worker="other"), 0.2)
    (close,) = sent(effects, Close)
    assert (close.to_worker, machine.worker) == ("other", "w")


def test_silence_polls_and_then_opens_at_two_workers_or_polls_twice_where_there_is_one() -> None:
    machine = started(Plan(0, 1), others=True)
    assert len(sent(machine.tick(machine.next_tick() or 0), Poll)) == 1
    assert len(sent(machine.tick(machine.next_tick() or 0), Open)) == 2
    machine = started(Plan(0, 1), others=False)
    kinds: list[tuple[float, str]] = []
    while len(kinds) < 3:
        now = machine.next_tick()
        assert now is not None
        kinds += [(now, type(e.message).__name__) for e in machine.tick(now) if isinstance(e, Send)]
    assert [kind for _, kind in kinds] == ["Poll", "Poll", "Open"]
    first, second, third = (at - 0.1 for at, _ in kinds)
    assert second == pytest.approx(2 * first)
    assert third == pytest.approx(4 * first)


def test_a_poll_carries_all_that_is_unacknowledged() -> None:
    machine = started(Plan(2, 2))
    machine.receive(verdict((), (7,)), 0.15)
    give(machine, 1, 2, 3, 4)
    (poll,) = sent(machine.tick(machine.next_tick() or 0), Poll)
    assert isinstance(poll.message, Poll)
    assert (poll.message.start, poll.message.tokens) == (1, (1, 2, 3, 4))


def test_busy_sets_the_timer_and_nothing_else() -> None:
    machine = session()
    machine.start(0.0)
    machine.receive(Error(1, 1, ErrorCode.BUSY, 700, "w"), 0.1)
    assert machine.next_tick() == pytest.approx(0.8)
    (again,) = sent(machine.tick(0.8), Open)
    assert isinstance(again.message, Open)
    assert again.message.attempt == 2


def test_unknown_reopens_only_for_the_adopted_worker_and_attempt() -> None:
    machine = started()
    assert sent(machine.receive(Error(1, 1, ErrorCode.UNKNOWN, 0, "x"), 0.2), Open) == []
    assert len(sent(machine.receive(Error(1, 1, ErrorCode.UNKNOWN, 0, "w"), 0.3), Open)) == 1


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (ErrorCode.CONTEXT, WorkerError),
        (ErrorCode.FINGERPRINT, WorkerError),
        (ErrorCode.MALFORMED, RemoteProtocolError),
        (ErrorCode.PROTOCOL, RemoteProtocolError),
    ],
)
def test_a_refusal_ends_the_session_with_a_hint(code: ErrorCode, kind: type) -> None:
    machine = session()
    machine.start(0.0)
    (finish,) = machine.receive(Error(1, 1, code, 0, "w", "why"), 0.1)
    assert isinstance(finish, Finish)
    assert isinstance(finish.error, kind)
    assert "why" in str(finish.error)
    assert finish.error is not None
    assert finish.error.hint


def test_offline_sends_nothing_and_link_up_polls() -> None:
    machine = started(Plan(0, 1))
    assert machine.link_down(0.2) == []
    assert machine.tick(100.0) == []
    assert len(sent(machine.link_up(100.0), Poll)) == 1
    assert machine.state is EdgeState.ACTIVE
    assert len(sent(machine.worker_online(100.1), Poll)) == 1, "the worker may have come back after the poll"
    machine.receive(verdict((), (7,)), 100.2)
    assert machine.worker_online(100.3) == []


def test_started_offline_opens_soon_after_the_link_is_up() -> None:
    machine = session()
    machine.link_down(0.0)
    assert machine.start(0.0) == []
    machine.link_up(50.0)
    at = machine.next_tick()
    assert at is not None
    assert 50.0 <= at <= 51.0
    assert len(sent(machine.tick(at), Open)) == 1


def test_a_will_polls_and_does_not_reopen() -> None:
    machine = started(Plan(0, 1))
    assert machine.worker_gone("x", 0.2) == []
    effects = machine.worker_gone("w", 0.2)
    assert len(sent(effects, Poll)) == 1
    assert machine.state is EdgeState.ACTIVE


def test_the_first_status_of_a_worker_has_an_opening_session_open_at_once() -> None:
    machine, now = session(), 0.0
    machine.start(now)
    while now < 60.0:
        machine.no_worker(now)
        now = machine.next_tick() or now
        machine.tick(now)
    wanted = machine.next_tick()
    assert wanted is not None
    assert wanted > now + 5.0, "the back-off is long by now"
    assert machine.worker_online(now) == []
    again = machine.next_tick()
    assert again is not None
    assert again <= now + 0.2
    assert len(sent(machine.tick(again), Open)) == 1
    active = started(Plan(0, 1))
    assert active.worker_online(0.2) == []
    assert active.worker == "w"


def test_the_lease_is_renewed_while_the_drafter_is_slow() -> None:
    machine = started(Plan(4, 1))
    machine.receive(verdict((), (7,)), 0.2)
    at = machine.next_tick()
    assert at == pytest.approx(10.1)
    assert len(sent(machine.tick(at or 0), Poll)) == 1


def test_a_lease_of_nothing_has_nobody_poll_without_end() -> None:
    machine = session(Plan(4, 1))
    machine.start(0.0)
    machine.receive(msgspec.structs.replace(verdict((), (), worker="w"), lease=0), 0.1)
    assert machine.state is EdgeState.ACTIVE
    polls = 0
    while (at := machine.next_tick()) is not None and at <= 2.0:
        polls += len(sent(machine.tick(at), Poll))
    assert polls <= 7


def test_credit_is_returned_when_half_of_it_is_used() -> None:
    machine = started(Plan(0, 1, 0, 8))
    acks = sent(machine.receive(verdict((), (1, 2, 3)), 0.2), Draft)
    assert acks == []
    (ack,) = sent(machine.receive(verdict((1, 2, 3), (4,)), 0.3), Draft)
    assert isinstance(ack.message, Draft)
    assert (ack.message.have, ack.message.tokens, ack.message.ahead) == (4, (), 8)


def test_cancel_closes_the_worker() -> None:
    machine = started()
    assert len(sent(machine.cancel(0.3), Close)) == 1
    assert (machine.finished, machine.next_tick()) == (FinishReason.CANCELLED, None)


def test_an_accept_after_the_end_is_closed() -> None:
    machine = started()
    machine.cancel(0.3)
    assert len(sent(machine.receive(verdict((), (), worker="late"), 0.4), Close)) == 1
    assert machine.receive(verdict((), (7,)), 0.4) == []
    assert machine.committed == ()
    (close,) = close_unknown(verdict((), (), worker="late"))
    assert isinstance(close, Send)
    assert close.to_worker == "late"
    assert close_unknown(verdict((), ())) == []


def test_resuming_a_finished_text_finishes_at_once() -> None:
    (finish,) = session(committed=(7, EOS, 9)).start(0.0)
    assert finish == Finish(FinishReason.EOS)


@pytest.mark.parametrize("had", [(), (7,), (7, 5)])
def test_a_delivery_ends_a_text_that_was_not_begun_where_that_ends(had: tuple[int, ...]) -> None:
    machine = session(committed=had, finish_at=lambda text: len(text) if text[-1] == 5 else None)
    tokens = (7, 5, 8)
    effects = machine.receive(Delivery(1, 1, tokens, digest(tokens), Fin.LENGTH, "w"), 0.0)
    assert (*had, *committed(effects)) == machine.committed == (7, 5)
    assert effects[-1] == Finish(FinishReason.STOP)
    assert [close.to_worker for close in sent(effects, Close)] == ["w"]
    assert not sent(effects, Open)


def test_who_left_the_beginning_of_a_text_is_told_when_it_goes_on_elsewhere() -> None:
    machine = session()
    effects = machine.receive(Delivery(1, 1, (7,), digest((7,)), Fin.NONE, "w1"), 0.0)
    assert committed(effects) == (7,)
    (begun,) = machine.start(0.0)
    assert isinstance(begun, Send)
    assert isinstance(begun.message, Open)
    assert begun.message.committed == (7,)
    (close,) = sent(machine.receive(verdict((7,), (), worker="w2"), 0.1), Close)
    assert (close.to_worker, close.message.reason) == ("w1", CloseReason.ELSEWHERE)  # type: ignore[union-attr]


def test_misuse_is_our_own_error() -> None:
    machine = session()
    with pytest.raises(UnexpectedEvent):
        machine.receive(verdict((), ()), 0.0)
    machine.start(0.0)
    with pytest.raises(LocalProtocolError):
        machine.start(0.0)
    with pytest.raises(LocalProtocolError):
        machine.receive(Verdict(2, 1, 0, 0, (), 0, Fin.NONE, 0, 0), 0.0)
    with pytest.raises(LocalProtocolError):
        session(prompt=())


def test_what_a_worker_drafted_is_judged_by_what_came_of_it() -> None:
    """Three drafted, of which two were right: three were met. Behind our own two, one of one was right."""
    machine = started(Plan(2, 1, ahead=16, worker_draft=4))
    (own,) = machine.receive(msgspec.structs.replace(verdict((), (5, 6, 7)), drafted=3), 0.2)[:1]
    counters = machine.counters
    assert (counters.worker_judged, counters.worker_accepted, counters.judged) == (3, 2, 0)
    give(machine, 8, 9)
    told = verdict((5, 6, 7), (8, 9, 10, 11))
    behind = machine.receive(msgspec.structs.replace(told, drafted=1), 0.3)[0]
    assert (counters.worker_judged, counters.worker_accepted) == (4, 3)
    commits = [commit.writers for commit in (own, behind) if isinstance(commit, Commit)]
    assert commits == [("worker", "worker", "target"), ("device", "device", "worker", "target")]
    again = machine.receive(verdict((5, 6, 7, 8, 9, 10, 11), (1, 2, 3)), 0.4)[0]
    assert isinstance(again, Commit)
    assert again.writers == ("cloud",) * 3, "of several forwards nobody can tell"
    assert (counters.judged, counters.accepted) == (2, 2)
    drafts = counters.drafts
    assert (drafts.drafts, drafts.drafted, drafts.accepted) == (2, 6, 5), "two of three, then all of three"
    assert drafts.by_position[:4] == [2, 2, 1, 0]


def test_drafted_tokens_behind_a_wrong_one_count_as_drafted() -> None:
    machine = started(Plan(4, 1))
    give(machine, 5, 6, 7, 8)
    machine.receive(verdict((), (5, 1)), 0.2)
    drafts = machine.counters.drafts
    assert (drafts.drafts, drafts.drafted, drafts.accepted, machine.counters.judged) == (1, 4, 1, 2)
