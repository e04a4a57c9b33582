"""The worker machine, one rule at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_field

from flexspec_mq.codec import Codec
from flexspec_mq.errors import LocalProtocolError, WorkerError
from flexspec_mq.protocol.effects import Free, Reply, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import DraftRows, WorkerState
from lab.simulator.world import EOS, FINGERPRINT, VOCAB, held, identity
from schemas.messages import (
    MAX_DRAFT_TOKENS,
    NOISE_VERSION,
    Close,
    CloseReason,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Open,
    Poll,
    Sampling,
)
from schemas.status import TokenizerStatus
from tests.protocol.builders import CONFIG, PROMPT, batch, decide, digest, item, opened, opening, verdicts


def errors(effects: Sequence[WorkerEffect]) -> list[tuple[str, ErrorCode]]:
    return [
        (e.edge, e.message.code) for e in effects if isinstance(e, Reply) and isinstance(e.message, Error)
    ]


def test_an_open_is_answered_before_any_forward() -> None:
    machine = WorkerMachine(CONFIG)
    (accept,) = verdicts(machine.receive("e", opening(committed=(7, 8)), 0.0, qos=1))
    assert (accept.worker, accept.lease, accept.start, accept.tokens, accept.echo) == ("w", 30, 2, (), 1)
    assert accept.digest == digest((7, 8))
    work = item(machine)
    assert (work.start, tuple(work.context), work.draft) == (2, (*PROMPT, 7, 8), ())


def test_the_name_is_repeated_until_a_draft_shows_that_it_is_known() -> None:
    machine = opened()
    assert verdicts(decide(machine, 7))[0].worker == "w"
    machine.receive("e", batch((7,), (8,)), 0.3)
    assert verdicts(decide(machine, 8, 9, now=0.4))[0].worker is None


def test_an_accept_tells_what_the_makers_recommend_where_the_session_samples_otherwise() -> None:
    sampled = replace_field(identity().sampling, seed=0)
    for recommended, told in ((None, None), (sampled, None), (Sampling(0.25), Sampling(0.25))):
        facts = replace(CONFIG.facts, recommended=recommended)
        worker = WorkerMachine(replace(CONFIG, facts=facts))
        for attempt in (1, 2):
            (accept,) = verdicts(worker.receive("e", opening(attempt=attempt), 0.0))
            assert accept.recommended == told
        (later,) = verdicts(worker.receive("e", batch((), (), attempt=2, kind=Poll), 1.0))
        assert later.worker is None
        assert later.recommended is None


def test_a_result_for_a_chain_that_was_cut_meanwhile_is_dropped() -> None:
    machine = opened(opening(committed=(7, 8)))
    work = item(machine)
    machine.receive("e", opening(attempt=2, committed=(7, 9)), 0.2)
    assert machine.result(work, (5,), 0, 0, 0.3) == []
    assert machine.counters.dropped == 1
    assert tuple(item(machine).context) == (*PROMPT, 7, 9)


def test_a_result_survives_a_reopen_that_agrees() -> None:
    machine = opened(opening(committed=(7, 8)))
    work = item(machine)
    machine.receive("e", opening(attempt=2, committed=(7, 8)), 0.2)
    (verdict,) = verdicts(machine.result(work, (5,), 0, 0, 0.3))
    assert (verdict.attempt, verdict.start, verdict.tokens) == (2, 2, (5,))


def test_a_reopen_keeps_what_agrees_and_sends_the_rest() -> None:
    machine = opened(opening(draft=(7, 8)))
    decide(machine, 7, 8, 9)
    (accept,) = verdicts(machine.receive("e", opening(attempt=2, committed=(7,)), 0.3))
    assert (accept.start, accept.tokens, accept.digest) == (1, (8, 9), digest((7, 8, 9)))


@pytest.mark.parametrize(
    ("limit", "tokens", "expected", "fin"),
    [(2, (7, 8), (7, 8), Fin.LENGTH), (9, (7, EOS), (7, EOS), Fin.EOS), (9, (7, EOS, 8), (7, EOS), Fin.EOS)],
)
def test_nothing_is_decided_past_the_end(
    limit: int, tokens: tuple[int, ...], expected: tuple[int, ...], fin: Fin
) -> None:
    machine = opened(opening(draft=(7, EOS, 9, 9), ident=identity(limit=limit)))
    work = item(machine)
    assert len(work.draft) == min(4, limit - 1)
    effects = machine.result(work, tokens, 0, 0, 0.2)
    (verdict,) = verdicts(effects)
    assert (verdict.tokens, verdict.fin) == (expected, fin)
    assert Free(("e", 1)) in effects
    assert machine.state(("e", 1), 0.2) is WorkerState.FINISHED
    assert not machine.ready()


def test_a_finished_session_answers_polls_until_it_is_closed() -> None:
    machine = opened(opening(ident=identity(limit=1)))
    decide(machine, 7)
    poll = Poll(1, 1, 3, 0, 0, digest((), identity(limit=1)), (), 0)
    (again,) = verdicts(machine.receive("e", poll, 0.3))
    assert (again.start, again.tokens, again.fin) == (0, (7,), Fin.LENGTH)
    machine.receive("e", Close(1, 1, 1, CloseReason.DONE), 0.4)
    assert machine.state(("e", 1), 0.4) is WorkerState.TOMB
    assert machine.state(("e", 1), 70.0) is WorkerState.ABSENT


def test_stale_and_duplicate_batches_are_not_answered() -> None:
    machine = opened(opening(draft=(7, 8)))
    decide(machine, 7, 8, 9)
    assert machine.receive("e", batch((), (7,)), 0.3) == []
    assert machine.receive("e", batch((7, 5), (1,), seq=3), 0.3) == []
    assert machine.receive("e", batch((7,), (5, 5, 5), seq=4), 0.3) == []
    assert (machine.counters.duplicate, machine.counters.stale) == (1, 2)
    assert not machine.ready()


def test_batches_behind_a_rejection_are_stale_wherever_they_start() -> None:
    machine = opened(opening(draft=(7, 8)))
    work = item(machine)
    machine.receive("e", batch((7, 8), (9, 9)), 0.15)
    (verdict,) = verdicts(machine.result(work, (7, 5), 0, 0, 0.2))
    assert verdict.tokens == (7, 5)
    assert machine.receive("e", batch((7, 8, 9, 9), (9,), seq=3), 0.3) == []
    assert machine.counters.stale == 2
    assert machine.counters.gaps == 0


def test_a_gap_is_reported_once_per_length() -> None:
    machine = opened(opening(draft=(7,)))
    decide(machine, 7, 8)
    (gap,) = verdicts(machine.receive("e", batch((7, 8, 1), (2,), have=2), 0.3))
    assert (gap.fin, gap.start, gap.tokens) == (Fin.GAP, 2, ())
    assert machine.receive("e", batch((7, 8, 1, 2), (3,), have=2, seq=3), 0.3) == []
    assert machine.receive("e", batch((7, 8), (1,), have=2, seq=4), 0.3) == []
    assert item(machine).draft == (1, 2, 3)


def test_a_batch_that_arrives_during_its_forerunner_is_no_gap_and_is_merged_with_the_next() -> None:
    machine = opened(opening(draft=(7, 8)))
    work = item(machine)
    assert machine.receive("e", batch((7, 8), (9, 1)), 0.15) == []
    assert machine.receive("e", batch((7, 8, 9, 1), (2, 3), seq=3), 0.16) == []
    machine.result(work, (7, 8, 9), 0, 0, 0.2)
    merged = item(machine)
    assert (merged.start, merged.draft, merged.seq) == (3, (1, 2, 3), 3)
    assert merged.waiting_since == pytest.approx(0.16)


def test_the_hold_buffer_is_bounded() -> None:
    machine = opened(opening())
    item(machine)
    for seq in range(2, 30):
        machine.receive("e", batch((7,) * seq, (8,), seq=seq), 0.1)
    assert machine.counters.held_dropped == 20


def test_look_ahead_stops_at_the_credit_and_goes_on_when_it_is_returned() -> None:
    machine = opened(opening(ahead=2))
    assert verdicts(decide(machine, 1))[0].tokens == (1,)
    assert verdicts(decide(machine, 2, now=0.3))[0].start == 1
    assert not machine.ready()
    machine.receive("e", Draft(1, 1, 2, 2, 0, digest((1, 2)), (), 2), 0.4)
    assert machine.ready()


@pytest.mark.parametrize(
    ("ahead", "drafted", "wanted", "limit", "room"),
    [
        (8, 0, 4, 40, 4),  # as many as are wanted
        (8, 5, 4, 40, 2),  # 5 drafted, 2 of our own and the target's own next one are the credit
        (8, 7, 4, 40, 0),
        (0, 0, 4, 40, 0),
        (8, 0, 0, 40, 0),
        (8, 2, 4, 5, 2),  # the last token before the limit needs no draft
        (256, 64, 64, 300, 64),
        (6, 0, 64, 40, 5),  # however many are wanted, what is decided stays within the credit
    ],
)
def test_the_room_for_the_workers_own_draft(
    ahead: int, drafted: int, wanted: int, limit: int, room: int
) -> None:
    config = replace(CONFIG, facts=held(400))
    message = opening(ahead=ahead, draft=(1,) * drafted, ident=identity(limit=limit), worker_draft=wanted)
    work = item(opened(message, config))
    assert (len(work.draft), work.room) == (drafted, room)


def test_what_the_worker_drafts_is_decided_behind_the_edges_draft_and_counted_apart() -> None:
    machine = opened(opening(draft=(7,), ahead=8, worker_draft=3))
    work = item(machine)
    assert (work.draft, work.room) == ((7,), 3)
    (verdict,) = verdicts(machine.result(work, (7, 1, 2, 3), 0, 0, 0.2))
    assert (verdict.start, verdict.tokens) == (0, (7, 1, 2, 3))
    counters = machine.counters
    assert (counters.drafted, counters.accepted, counters.worker_accepted) == (1, 1, 2)
    drafts = counters.versions["v"].drafts
    assert (drafts.drafts, drafts.accepted, drafts.by_position[:4]) == (1, 3, [1, 1, 1, 0])
    assert machine.sessions["e", 1].fork == 0, "nothing that the edge drafted was wrong"


@pytest.mark.parametrize("tokens", [(7, 1, 2, 3, 4, 5), (8, 1), ()])
def test_an_engine_that_decides_more_than_it_may_or_another_draft_breaks_its_contract(
    tokens: tuple[int, ...],
) -> None:
    machine = opened(opening(draft=(7,), ahead=8, worker_draft=3))
    work = item(machine)
    with pytest.raises(LocalProtocolError, match="with room for 3"):
        machine.result(work, tokens, 0, 0, 0.2)


def test_the_newest_message_says_how_much_the_worker_may_draft() -> None:
    machine = opened(opening(ahead=8, worker_draft=3))
    machine.receive("e", replace_field(batch((), (), seq=3, ahead=8), worker_draft=5), 0.02)
    machine.receive("e", batch((), (), seq=2, ahead=8), 0.03)
    assert item(machine).room == 5
    machine.receive("e", opening(attempt=2, ahead=8, worker_draft=1), 0.04)
    machine.result(machine.sessions["e", 1].flight or item(machine), (7,), 0, 0, 0.2)
    assert item(machine, 0.3).room == 1


def test_fast_look_ahead_shares_verdicts() -> None:
    machine = opened(opening(ahead=8))
    first = decide(machine, 1, now=1.0)
    assert len(verdicts(first)) == 1
    assert decide(machine, 2, now=1.001) == []
    assert decide(machine, 3, now=1.002) == []
    at = machine.next_tick()
    assert at == pytest.approx(1.005)
    (verdict,) = verdicts(machine.tick(at or 0))
    assert (verdict.start, verdict.tokens) == (1, (2, 3))


def test_duplicates_entitle_to_nothing() -> None:
    machine = opened()
    decide(machine, 7)
    for seq in (2, 3, 4):
        machine.receive("e", batch((7,), (), have=1, seq=seq), 0.3)
    decide(machine, 8, now=0.4)
    assert not machine.ready()


def test_unknown_sessions_and_attempts_are_told_so() -> None:
    machine = WorkerMachine(CONFIG)
    assert errors(machine.receive("e", batch((), ()), 0.0)) == [("e", ErrorCode.UNKNOWN)]
    machine.receive("e", opening(), 0.0)
    assert errors(machine.receive("e", batch((), (), attempt=2), 0.0)) == [("e", ErrorCode.UNKNOWN)]
    assert errors(machine.receive("other", batch((), ()), 0.0)) == [("other", ErrorCode.UNKNOWN)]


def test_full_and_draining_workers_are_busy() -> None:
    machine = opened()
    machine.receive("e", opening(session=2), 0.0)
    assert errors(machine.receive("e", opening(session=3), 0.0)) == [("e", ErrorCode.BUSY)]
    machine.receive("e", Close(2, 1, 0, CloseReason.DONE), 0.1)
    machine.drain(0.2)
    assert errors(machine.receive("e", opening(session=3), 0.3)) == [("e", ErrorCode.BUSY)]
    assert len(verdicts(decide(machine, 7))) == 1
    assert len(machine) == 1


def test_a_close_of_a_lower_attempt_changes_nothing_and_tombstones_keep_late_opens_from_reviving() -> None:
    machine = opened(opening(attempt=2))
    assert machine.receive("e", Close(1, 1, 0, CloseReason.ELSEWHERE), 0.1) == []
    assert len(machine) == 1
    machine.receive("e", Close(1, 2, 0, CloseReason.CANCELLED), 0.1)
    machine.receive("e", Close(1, 1, 0, CloseReason.ELSEWHERE), 0.1)  # a late copy
    assert machine.receive("e", opening(), 0.2) == []
    assert machine.receive("e", opening(attempt=2), 0.2) == []
    assert len(verdicts(machine.receive("e", opening(attempt=3), 0.2))) == 1
    for session in range(1000):
        machine.receive("e", Close(session + 9, 1, 0, CloseReason.DONE), 0.3)
    assert len(machine._closed_at) == 256


def test_the_lease_frees_and_any_message_renews_it() -> None:
    machine = opened()
    decide(machine, 7)
    machine.receive("e", batch((), (), kind=Poll), 20.0)
    assert machine.tick(31.0) == []
    assert machine.tick(50.0) == [Free(("e", 1))]
    assert errors(machine.receive("e", batch((), ()), 51.0)) == [("e", ErrorCode.UNKNOWN)]


PENALIZED, BIASED = Sampling(presence_penalty=0.5), Sampling(logit_bias=((VOCAB, 1.0),))


def test_a_worker_whose_server_tells_likeliest_tokens_only_refuses_penalties() -> None:
    machine = WorkerMachine(replace(CONFIG, facts=replace(CONFIG.facts, penalties=False)))
    penalized = opening(ident=replace_field(identity(), noise=3, sampling=PENALIZED))
    assert errors(machine.receive("e", penalized, 0.0)) == [("e", ErrorCode.SAMPLING)]
    assert not errors(WorkerMachine(CONFIG).receive("e", penalized, 0.0))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (opening(attempt=0), ErrorCode.MALFORMED),
        (opening(draft=(VOCAB,)), ErrorCode.MALFORMED),
        (opening(committed=(EOS, 1)), ErrorCode.MALFORMED),
        (opening(ident=identity(limit=98)), ErrorCode.CONTEXT),
        (opening(ident=identity(limit=0)), ErrorCode.MALFORMED),
        (
            opening(ident=Identity(2, bytes(16), Sampling(seed=1), (), False, 5)),
            ErrorCode.FINGERPRINT,
        ),
        (opening(ident=replace_field(identity(), noise=NOISE_VERSION - 1)), ErrorCode.PROTOCOL),
        (opening(ident=replace_field(identity(), noise=NOISE_VERSION + 1)), ErrorCode.PROTOCOL),
        (opening(ident=replace_field(identity(), sampling=PENALIZED)), ErrorCode.PROTOCOL),
        (opening(ident=replace_field(identity(), noise=3, sampling=BIASED)), ErrorCode.MALFORMED),
    ],
)
def test_an_illegal_open_costs_its_sender_an_error_and_nobody_else_anything(
    message: Open, code: ErrorCode
) -> None:
    machine = WorkerMachine(CONFIG)
    machine.receive("good", opening(), 0.0)
    assert errors(machine.receive("bad", message, 0.1)) == [("bad", code)]
    assert machine.counters.rejected == 1
    assert len(machine) == 1
    assert machine.state(("bad", 1), 0.1) is WorkerState.ABSENT
    assert verdicts(decide(machine, 7))[0].tokens == (7,)


OTHER = Identity(2, bytes(16), Sampling(seed=1), (EOS,), False, 5)
"""Identity of a session whose device has a tokenizer with another fingerprint."""


def knowing(eos: tuple[int, ...] = (EOS,)) -> WorkerMachine:
    """A worker that knows what the ids of its target mean, and which of them end a text."""
    known = TokenizerStatus(tokens=VOCAB, vocabulary="00" * 16, eos=eos, template="00" * 8)
    return WorkerMachine(replace(CONFIG, facts=replace(CONFIG.facts, tokenizer=known)))


def test_where_a_text_does_not_end_by_itself_its_end_need_not_agree() -> None:
    endless = replace_field(OTHER, fingerprint=FINGERPRINT, eos=(), ignore_eos=True)
    machine = knowing()
    machine.receive("e", opening(ident=endless), 0.0)
    assert verdicts(decide(machine, 7))[0].tokens == (7,)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (opening(ident=OTHER), "the tokenizers differ by their contents"),
        (
            opening(ident=replace_field(OTHER, fingerprint=FINGERPRINT, eos=(3, EOS))),
            f"the target ends texts with token {EOS}, the device with 3, {EOS}",
        ),
        (
            opening(ident=replace_field(OTHER, fingerprint=FINGERPRINT, eos=())),
            f"the target ends texts with token {EOS}, the device with nothing",
        ),
    ],
)
def test_a_device_whose_ids_mean_others_or_whose_texts_end_elsewhere_is_told_so(
    message: Open, said: str
) -> None:
    (reply,) = knowing().receive("e", message, 0.0)
    assert isinstance(reply, Reply)
    assert isinstance(reply.message, Error)
    assert (reply.message.code, reply.message.detail) == (ErrorCode.FINGERPRINT, said)


def test_a_message_that_was_not_read_is_refused_and_its_session_stays() -> None:
    machine = opened()
    assert machine.refuse("e", 1, 3, ErrorCode.CONTEXT, "too long", 1) == [
        Reply("e", Error(1, 3, ErrorCode.CONTEXT, 0, CONFIG.worker, "too long"), 1)
    ]
    assert machine.counters.rejected == 1
    assert machine.state(("e", 1), 0.1) is WorkerState.LIVE


def test_illegal_drafts_and_other_texts_are_refused() -> None:
    machine = opened()
    assert errors(machine.receive("e", batch((), (VOCAB,)), 0.1)) == [("e", ErrorCode.MALFORMED)]
    again = opening(attempt=2)
    for other in (opening(attempt=2, ident=identity(seed=2)), replace_field(again, prompt=(*PROMPT, 1))):
        assert errors(machine.receive("e", other, 0.1)) == [("e", ErrorCode.PROTOCOL)]
    assert len(machine) == 1


def test_a_failed_item_ends_its_session_alone() -> None:
    machine = opened()
    machine.receive("f", opening(), 0.0)
    first, second = machine.take_work(0.1, 9)
    effects = machine.failed(first, 0.2, WorkerError("its server said no"))
    assert errors(effects) == [("e", ErrorCode.INTERNAL)]
    assert effects[-1] == Reply("e", Error(1, 1, ErrorCode.INTERNAL, 0, "w", "its server said no"), 0)
    assert Free(("e", 1)) in effects
    assert len(verdicts(machine.result(second, (7,), 0, 0, 0.2))) == 1


@pytest.mark.parametrize(("granted", "decided", "accepted"), [(0, (7,), 0), (1, (7, 8), 1), (1, (9,), 0)])
def test_the_targets_own_token_is_no_accepted_row_though_it_was_drafted(
    granted: int, decided: tuple[int, ...], accepted: int
) -> None:
    """The drafted token that is like it was put off."""
    machine = opened(opening(draft=(7, 8, 9)))
    machine.result(item(machine), decided, 0, 0, 0.2, DraftRows(0, granted))
    assert machine.counters.accepted == accepted


def test_what_a_verdict_tells_of_long_drafts_and_long_forwards_fits_into_it() -> None:
    """Batches that join up can have more tokens than one, and a worker may have been asleep."""
    half, ident = tuple(range(1, 41)), identity(limit=90)
    machine = opened(opening(draft=half, ident=ident), replace(CONFIG, facts=held(200)))
    machine.receive("e", Draft(1, 1, 2, 0, 40, digest(half, ident), half, 0), 0.1)
    work = item(machine)
    assert len(work.draft) == 80
    effects = machine.result(work, (*work.draft[:70], 45), 10**9, 10**9, 0.2, DraftRows(0, 70))
    assert [verdict.granted for verdict in verdicts(effects)] == [MAX_DRAFT_TOKENS]
    assert all(isinstance(effect, Reply) and Codec().encode(effect.message) for effect in effects)
