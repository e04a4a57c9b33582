"""A prompt that goes on from an earlier text: named, found, or asked for; by the machines of both sides."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import LocalProtocolError
from flexspec_mq.protocol.digest import prefix_name
from flexspec_mq.protocol.edge.prefix_index import PrefixIndex
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import EdgeState, Reuse, Written
from flexspec_mq.protocol.effects import Effect, Free, ReleaseToCache, Transfer, WorkerEffect
from flexspec_mq.protocol.worker import prefix_store
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import WorkerConfig, WorkerState
from lab.simulator.world import FINGERPRINT, identity
from schemas.messages import Close, CloseReason, Error, ErrorCode, Identity, Open, Prefix, Verdict
from tests.protocol.builders import CONFIG, answer, decide, digest, item, sent, session, started, verdict
from tests.protocol.builders import PROMPT as EDGE_PROMPT

PROMPT = (3, 1, 4, 1, 5)
KEEPING = replace(CONFIG, prefixes=2, prefix_ttl=10.0)
ONE = ("e", 1)


def named(
    text: Sequence[int],
    rest: Sequence[int],
    *,
    session: int = 2,
    version: str = "v",
    fingerprint: bytes = FINGERPRINT,
    ident: Identity | None = None,
) -> Open:
    prefix = Prefix(len(text), prefix_name(fingerprint, version, tuple(text)))
    return Open(session, 1, ident or identity(seed=2), tuple(rest), (), 0, 1, (), prefix)


def first_turn(config: WorkerConfig = KEEPING, *, limit: int = 3) -> WorkerMachine:
    """A session that has written 7, 8, 9 and is not closed yet."""
    machine = WorkerMachine(config)
    machine.receive("e", Open(1, 1, identity(limit=limit), PROMPT, (), 0, 1, (7, 8)), 0.0)
    decide(machine, 7, 8, 9)
    return machine


def close(
    machine: WorkerMachine, session: int = 1, now: float = 1.0, reason: CloseReason = CloseReason.DONE
) -> list[WorkerEffect]:
    return machine.receive("e", Close(session, 1, 3, reason), now)


def goes_on(machine: WorkerMachine, message: Open, now: float = 2.0, edge: str = "e") -> bool:
    """Whether a session is taken; otherwise it is asked for its whole prompt, and nothing is kept of it."""
    before = len(machine.sessions)
    reply = answer(machine.receive(edge, message, now), edge)
    if isinstance(reply, Verdict):
        return True
    assert (reply.code, reply.attempt, reply.worker) == (ErrorCode.NEED_PREFIX, message.attempt, "w")
    assert len(machine.sessions) == before
    return False


def test_a_name_is_made_of_version_vocabulary_and_tokens() -> None:
    """The layout is wire protocol: these bytes must never change."""
    assert prefix_name(FINGERPRINT, "v", (1, 2, 70_000)).hex() == "038e41af4357e30e6b19fdde063cdd20"
    names = {
        prefix_name(*parts)
        for parts in (
            (FINGERPRINT, "v", (1, 2)),
            (FINGERPRINT, "v", (1,)),
            (FINGERPRINT, "v", (2, 1)),
            (FINGERPRINT, "w", (1, 2)),
            (bytes(16), "v", (1, 2)),
        )
    }
    assert len(names) == 5


# The worker


@pytest.mark.parametrize("count", range(1, 9))
def test_any_part_of_an_earlier_text_can_be_named_and_is_put_before_the_rest_of_the_prompt(
    count: int,
) -> None:
    machine = first_turn()
    assert close(machine) == [ReleaseToCache(ONE)]
    text = (*PROMPT, 7, 8, 9)[:count]
    effects = machine.receive("e", named(text, (2, 2)), 2.0)
    accept = answer(effects)
    assert isinstance(accept, Verdict)
    assert (accept.worker, accept.digest) == ("w", digest((), identity(seed=2), (*text, 2, 2)))
    branch = count < len(PROMPT)
    assert Transfer(ONE, ("e", 2), count if branch else None) in effects
    assert tuple(item(machine).context) == (*text, 2, 2)
    assert (machine.counters.inherited, machine.counters.need_prefix, machine.prefixes) == (1, 0, branch)
    # A text that was left within its prompt serves others, one that went on serves nobody.
    assert goes_on(machine, named((*PROMPT, 7), (4,), session=3)) is branch


def test_an_edge_has_the_worker_look_for_so_many_tokens_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is named after that is not looked for; another edge does not notice, and it passes."""
    monkeypatch.setattr(prefix_store, "_LOOK", 20)
    monkeypatch.setattr(prefix_store, "_LOOK_AGAIN", 4.0)
    machine = first_turn()
    close(machine)
    text = (*PROMPT, 7, 8, 9)
    for number in (2, 3):
        assert not goes_on(machine, named((*text[:-1], 0), (2,), session=number))
    assert not goes_on(machine, named(text, (2,), session=4))
    machine.receive("other", Open(1, 1, identity(limit=3), PROMPT, (), 0, 1, (7, 8)), 2.0)
    decide(machine, 7, 8, 9)
    machine.receive("other", Close(1, 1, 3, CloseReason.DONE), 2.0)
    assert goes_on(machine, named(text, (2,)), edge="other")
    assert goes_on(machine, named(text, (2,), session=5), 3.0)


def test_what_is_not_here_is_asked_for() -> None:
    machine = first_turn()
    close(machine)
    assert not goes_on(machine, named((*PROMPT, 7, 9), (2,)))
    assert not goes_on(machine, named((*PROMPT, 7, 8, 9, 9), (2,)))
    assert not goes_on(machine, named(PROMPT, (2,), version="another"))
    assert not goes_on(machine, named(PROMPT, (2,), fingerprint=bytes(16)))
    assert machine.counters.need_prefix == 4


def test_nobody_reaches_the_text_of_another_edge() -> None:
    machine = first_turn()
    assert not goes_on(machine, named(PROMPT, (2,)), edge="stranger")
    close(machine)
    assert not goes_on(machine, named(PROMPT, (2,)), edge="stranger")
    assert goes_on(machine, named(PROMPT, (2,)))


@pytest.mark.parametrize(("limit", "state"), [(3, WorkerState.FINISHED), (30, WorkerState.LIVE)])
def test_a_finished_session_whose_close_was_lost_serves_too_and_a_live_one_does_not(
    limit: int, state: WorkerState
) -> None:
    machine = first_turn(limit=limit)
    assert machine.state(("e", 1), 1.0) is state
    effects = machine.receive("e", named((*PROMPT, 7, 8, 9), (2,)), 1.0)
    assert (Transfer(ONE, ("e", 2)) in effects) == (state is WorkerState.FINISHED)


@pytest.mark.parametrize(
    ("config", "reason"),
    [(KEEPING, CloseReason.ELSEWHERE), (KEEPING, CloseReason.FAILED), (CONFIG, CloseReason.DONE)],
    ids=["elsewhere", "failed", "no room for texts"],
)
def test_what_went_on_elsewhere_or_failed_is_not_kept_nor_anything_where_there_is_no_room(
    config: WorkerConfig, reason: CloseReason
) -> None:
    machine = first_turn(config)
    assert close(machine, reason=reason) == [Free(ONE)]
    assert not goes_on(machine, named(PROMPT, (2,)))


def test_a_cancelled_text_is_kept_although_its_forward_comes_back_later() -> None:
    machine = first_turn(limit=30)
    machine.receive("e", Open(3, 1, identity(limit=9), (4, 4, 4), (), 0, 1, ()), 0.5)
    work = item(machine)
    assert close(machine, session=3, reason=CloseReason.CANCELLED) == [ReleaseToCache(("e", 3))]
    assert machine.result(work, (5,), 0, 0, 1.5) == [ReleaseToCache(("e", 3))]
    assert goes_on(machine, named((4, 4, 4), (2,), session=4))


def test_texts_are_kept_for_a_while_and_the_oldest_goes_first() -> None:
    machine = first_turn()
    close(machine, now=1.0)
    assert machine.next_tick() == 11.0
    for number in (5, 6):
        machine.receive("e", Open(number, 1, identity(limit=1), (number, 9), (), 0, 1, ()), 2.0)
        decide(machine, 7, now=2.0)
    assert close(machine, session=5, now=3.0) == [ReleaseToCache(("e", 5))]
    assert close(machine, session=6, now=4.0) == [ReleaseToCache(("e", 6)), Free(ONE)]
    assert not goes_on(machine, named(PROMPT, (2,)), now=5.0)
    assert machine.tick(13.5) == [Free(("e", 5))]
    assert machine.tick(14.5) == [Free(("e", 6))]
    assert (machine.prefixes, machine.next_tick()) == (0, None)


def test_copies_and_later_attempts_of_a_named_open_find_the_session_itself() -> None:
    machine = first_turn()
    close(machine)
    machine.receive("e", named(PROMPT, (2,)), 2.0)
    again = machine.receive("e", named(PROMPT, (2,)), 2.1)
    assert isinstance(answer(again), Verdict)
    assert not any(isinstance(effect, Transfer) for effect in again)
    full = Open(2, 2, identity(seed=2), (*PROMPT, 2), (), 0, 1, ())
    accept = answer(machine.receive("e", full, 2.2))
    assert isinstance(accept, Verdict)
    assert accept.attempt == 2
    assert len(machine) == 1


def test_the_whole_prompt_counts_for_the_context() -> None:
    machine = first_turn()
    close(machine)
    error = answer(machine.receive("e", named(PROMPT, (2,), ident=identity(limit=95)), 2.0))
    assert isinstance(error, Error)
    assert error.code is ErrorCode.CONTEXT


# The edge


def reusing(count: int = 3) -> EdgeSession:
    return session(prompt=(1, 2, 3, 4, 5), reuse=Reuse("w7", count))


def opens(effects: Sequence[Effect]) -> list[tuple[str | None, int, tuple[int, ...], Prefix | None]]:
    """To whom, which attempt, with which prompt and prefix."""
    messages = [(send.to_worker, send.message) for send in sent(effects, Open)]
    return [(to, o.attempt, o.prompt, o.prefix) for to, o in messages if isinstance(o, Open)]


IN_FULL = [(None, 2, (1, 2, 3, 4, 5), None)]


def test_the_first_open_names_what_the_worker_has_read() -> None:
    name = Prefix(3, prefix_name(FINGERPRINT, "v", (1, 2, 3)))
    assert opens(reusing().start(0.0)) == [("w7", 1, (4, 5), name)]


@pytest.mark.parametrize("count", [0, 5, 6, -1])
def test_a_prefix_that_leaves_nothing_to_send_is_our_bug(count: int) -> None:
    with pytest.raises(LocalProtocolError):
        reusing(count)


@pytest.mark.parametrize("code", [ErrorCode.NEED_PREFIX, ErrorCode.BUSY])
def test_a_worker_that_cannot_use_the_name_makes_us_open_in_full_at_once(code: ErrorCode) -> None:
    machine = reusing()
    machine.start(0.0)
    assert opens(machine.receive(Error(1, 1, code, 3000, "w7"), 0.1)) == IN_FULL
    assert machine.receive(Error(1, 1, code, 3000, "w7"), 0.2) == []  # a copy
    assert (machine.counters.named, machine.counters.misses, machine.counters.opens) == (1, 1, 2)
    # From then on busy is what it always is.
    assert machine.receive(Error(1, 2, ErrorCode.BUSY, 3000, "w8"), 0.3) == []
    assert machine.next_tick() == pytest.approx(3.3)


def test_silence_or_a_worker_without_a_subscription_makes_us_open_in_full() -> None:
    machine = reusing()
    machine.start(0.0)
    first, second = opens(machine.tick(machine.next_tick() or 0.0))
    assert ([first], second[2]) == (IN_FULL, first[2]), "two workers are asked"
    machine = reusing()
    machine.start(0.0)
    assert opens(machine.prefix_lost(0.1)) == IN_FULL
    assert machine.prefix_lost(0.2) == []


def test_an_accept_of_the_named_worker_is_adopted_like_any_other() -> None:
    machine = reusing()
    machine.start(0.0)
    machine.receive(verdict((), (), worker="w7", prompt=(1, 2, 3, 4, 5)), 0.1)
    assert (machine.state, machine.worker) == (EdgeState.ACTIVE, "w7")
    assert machine.receive(Error(1, 1, ErrorCode.NEED_PREFIX, 0, "w7"), 0.2) == []


def test_a_worker_that_put_another_prefix_there_is_left() -> None:
    """Collision of prefix names: the chains of hashes differ before any token is decided."""
    machine = reusing()
    machine.start(0.0)
    assert opens(machine.receive(verdict((), (), worker="w7", prompt=(9, 9, 9, 4, 5)), 0.1)) == IN_FULL
    assert machine.committed == ()


def test_what_is_left_at_the_end_is_what_the_worker_is_known_to_hold() -> None:
    machine = started()
    assert machine.written is None
    machine.receive(verdict((), (7, 8)), 0.2)
    machine.cancel(0.3)
    assert machine.written == Written("w", (*EDGE_PROMPT, 7, 8))


# Texts that workers hold, as an edge knows them

IDS = st.lists(st.integers(0, 1), max_size=12).map(tuple)


@given(st.lists(st.tuples(st.sampled_from(("a", "b")), IDS), max_size=8), IDS.filter(bool), st.integers(1, 4))
def test_the_longest_common_beginning_is_offered(
    texts: list[tuple[str, tuple[int, ...]]], prompt: tuple[int, ...], least: int
) -> None:
    index = PrefixIndex(least=least)
    for worker, tokens in texts:
        index.remember("v", Written(worker, tokens), 0.0)
    offer = index.offer("v", prompt, 1.0)
    commons = [
        (max(n for n in range(len(prompt)) if tokens[:n] == prompt[:n]), worker) for worker, tokens in texts
    ]
    best = max((count for count, _ in commons), default=0)
    if best < least:
        assert offer is None
    else:
        assert offer is not None
        assert (offer.count, offer.worker) in commons
        assert offer.count == best < len(prompt)


def test_the_newest_of_equals_is_offered() -> None:
    index = PrefixIndex(least=2)
    for worker in ("a", "b", "c"):
        index.remember("v", Written(worker, (1, 2, 3)), 0.0)
    assert index.offer("v", (1, 2, 3, 4), 0.0) == Reuse("c", 3)
    index.forget("c")
    assert index.offer("v", (1, 2, 3, 4), 0.0) == Reuse("b", 3)


def test_a_text_is_forgotten_after_a_while() -> None:
    index = PrefixIndex(least=1, ttl=10.0)
    index.remember("v", Written("a", (1, 2)), 0.0)
    index.remember("v", Written("b", (1, 2)), 5.0)
    assert index.offer("v", (1, 2, 3), 10.0) == Reuse("b", 2)
    assert index.offer("v", (1, 2, 3), 15.0) is None
    assert len(index) == 0


def test_texts_and_tokens_are_bounded_and_the_oldest_goes_first() -> None:
    index = PrefixIndex(least=1, most=3, most_tokens=10)
    for number in range(5):
        index.remember("v", Written("w", (number, number)), 0.0)
    assert len(index) == 3
    assert index.offer("v", (1, 1, 9), 0.0) is None
    index.remember("v", Written("w", (7,) * 8), 0.0)
    assert len(index) == 2
    index.remember("v", Written("w", (8,) * 11), 0.0)
    assert len(index) == 0
    assert PrefixIndex(most=0).offer("v", (1, 2), 0.0) is None
    index.remember("v", Written("w", (5, 5)), 0.0)
    assert index.offer("v", (5, 5, 5), 0.0) == Reuse("w", 2)


def test_a_text_of_one_version_is_no_use_to_another() -> None:
    index = PrefixIndex(least=1)
    index.remember("v1", Written("w", (1, 2, 3)), 0.0)
    assert index.offer("v2", (1, 2, 3, 4), 0.0) is None
    assert index.offer("v1", (1, 2, 3, 4), 0.0) == Reuse("w", 3)
