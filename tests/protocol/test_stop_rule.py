"""Batches end before the token that would not survive; nothing is asked twice because of it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.controller.estimators.average import Rate
from flexspec_mq.controller.plan import Plan
from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.text import PendingDraft
from flexspec_mq.protocol.edge.types import DraftToken
from flexspec_mq.protocol.effects import Commit
from tests.protocol.builders import batches, clean_world, give, started, verdict

CONFIDENCES = st.lists(st.floats(0, 1), max_size=12)


def writing(plan: Plan) -> EdgeSession:
    """Adopted, with one token committed and nothing in flight."""
    machine = started(plan)
    machine.receive(verdict((), (7,)), 0.15)
    return machine


def test_a_doubtful_token_is_dropped_and_the_batch_goes_without_it() -> None:
    machine = writing(Plan(8, 1, confidence_threshold=0.5))
    assert batches(give(machine, DraftToken(1, 0.9))) == []
    assert batches(give(machine, DraftToken(2, 0.7))) == []
    wanted = machine.draft_request()
    assert wanted is not None
    assert math.isclose(wanted.joint_acceptance, 0.63)
    assert (wanted.most, wanted.confidence_threshold) == (6, 0.5)
    assert batches(give(machine, DraftToken(3, 0.7))) == [(1, (1, 2))]
    assert (machine.counters.drafted, machine.counters.withheld) == (2, 1)


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_nothing_is_drafted_past_a_stop_until_something_is_committed(in_flight: int) -> None:
    machine = writing(Plan(4, in_flight, confidence_threshold=0.5))
    give(machine, DraftToken(1, 0.9))
    give(machine, DraftToken(2, 0.1))
    assert machine.draft_request() is None
    for now in (0.21, 0.22, 0.25):
        machine.tick(now)
        assert machine.draft_request() is None
    effects = machine.receive(verdict((7,), (1, 5)), 0.3)
    assert [effect.origins for effect in effects if isinstance(effect, Commit)] == [("model", None)]
    wanted = machine.draft_request()
    assert wanted is not None
    assert (wanted.start, wanted.joint_acceptance, wanted.most) == (3, 1.0, 4)


def test_a_batch_may_be_empty() -> None:
    machine = writing(Plan(4, 1, confidence_threshold=0.5))
    assert batches(give(machine, DraftToken(1, 0.1))) == [(1, ())]
    assert machine.draft_request() is None
    machine.receive(verdict((7,), (1,)), 0.3)
    assert machine.draft_request() is not None


@pytest.mark.parametrize(("confidence", "goes_on"), [(0.9, True), (0.6, False)])
def test_a_batch_that_may_not_go_out_yet_is_drafted_only_where_it_is_likely_of_use(
    confidence: float, *, goes_on: bool
) -> None:
    machine = writing(Plan(2, 1))
    give(machine, DraftToken(1, confidence))
    assert batches(give(machine, DraftToken(2, confidence))) == [(1, (1, 2))]
    assert (machine.draft_request() is not None) is goes_on
    machine.receive(verdict((7,), (1, 2, 5)), 0.3)
    assert machine.draft_request() is not None


def test_survival_counts_what_is_in_flight() -> None:
    machine = writing(Plan(2, 2, confidence_threshold=0.5))
    give(machine, DraftToken(1, 0.8))
    assert batches(give(machine, DraftToken(2, 0.8))) == [(1, (1, 2))]
    assert batches(give(machine, DraftToken(3, 0.7))) == []  # 0.45 survive to here
    assert machine.counters.withheld == 1
    # The first of them was right: what rides on the others is likelier now.
    machine.receive(verdict((7,), (1,)), 0.3)
    give(machine, DraftToken(3, 0.7))
    assert machine.counters.withheld == 1


def test_who_drafted_what_is_told_with_the_commit() -> None:
    machine = writing(Plan(3, 1))
    give(machine, DraftToken(1, 0.9, "lookup"), DraftToken(2, 0.9, "model"), DraftToken(3, 0.9, "lookup"))
    effects = machine.receive(verdict((7,), (1, 2, 9)), 0.3)
    (commit,) = (effect for effect in effects if isinstance(effect, Commit))
    assert commit.origins == ("lookup", "model", None)
    assert commit.writers == ("lookup", "device", "target")
    counters = machine.counters
    assert (counters.judged, counters.accepted) == (3, 2)
    assert (counters.looked_up, counters.looked_up_accepted) == (2, 1)


def test_only_the_model_is_timed() -> None:
    machine = writing(Plan(8, 1))
    give(machine, DraftToken(1, 0.9), now=0.2)
    give(machine, DraftToken(2, 0.9, "lookup"), now=0.9)
    assert machine.observation.draft_time is None
    give(machine, DraftToken(3, 0.9), now=0.91)
    assert machine.observation.draft_time == pytest.approx(0.01)


@given(CONFIDENCES, st.floats(0, 0.99))
def test_a_draft_is_accepted_as_its_tokens_are(confidences: list[float], threshold: float) -> None:
    pending = PendingDraft()
    for token, confidence in enumerate(confidences):
        together = math.prod(one.confidence for one in pending.tokens)
        assert math.isclose(pending.joint_acceptance, together, abs_tol=1e-12)
        if pending.add(DraftToken(token, confidence), threshold):
            assert pending.joint_acceptance >= threshold
        else:
            assert together * confidence < threshold
            assert math.isclose(pending.joint_acceptance, together, abs_tol=1e-12)
    assert all(PendingDraft().add(DraftToken(1, confidence), 0.0) for confidence in confidences)


@given(
    st.lists(st.integers(0, 2), max_size=8),
    st.lists(st.integers(0, 2), max_size=10),
    st.integers(0, 10),
    st.floats(0.1, 1),
)
def test_a_draft_is_met_token_by_token_and_goes_with_the_first_wrong_one(
    drafted: list[int], decided: list[int], cut: int, confidence: float
) -> None:
    """However the target's tokens are grouped."""
    pending = PendingDraft()
    for token in drafted:
        pending.add(DraftToken(token, confidence), 0.0)
    right = 0
    while right < min(len(drafted), len(decided)) and drafted[right] == decided[right]:
        right += 1
    met: list[int] = []
    wrong: list[bool] = []
    for part in (decided[:cut], decided[cut:]):
        tokens, last_is_wrong = pending.meet(part)
        met += [one.token for one in tokens]
        wrong.append(last_is_wrong)
    judged = min(right + (right < len(decided)), len(drafted))
    assert met == drafted[:judged]
    assert any(wrong) == (right < min(len(drafted), len(decided)))
    left = drafted[right:] if right == len(decided) else []
    assert [one.token for one in pending.tokens] == left
    assert math.isclose(pending.joint_acceptance, confidence ** len(left))


@settings(max_examples=15)
@given(
    length=st.integers(1, 8),
    in_flight=st.integers(1, 4),
    ahead=st.sampled_from([0, 64]),
    stop=st.sampled_from([0.0, 0.2, 0.6, 0.95]),
    delay=st.sampled_from([0.004, 0.04, 0.4]),
)
def test_on_a_clean_link_a_stop_changes_no_text_and_costs_no_poll(
    length: int, in_flight: int, ahead: int, stop: float, delay: float
) -> None:
    world = clean_world(
        Plan(length, in_flight, 0, ahead, stop), 0.8, delay=delay, sessions=2, limit=50, doubts=True
    )
    world.run(400)
    for cell in world.cells:
        world.check(cell)
        counters = cell.machine.counters
        assert cell.machine.finished == "length"
        assert (counters.polls, counters.reopens, counters.early) == (0, 0, 0)
        # A position is asked for again only after something was committed there.
        assert counters.withheld <= counters.rounds + 1
        assert counters.withheld == 0 or stop > 0
    assert world.drained()


def test_a_rate_follows_what_happens_lately() -> None:
    rate = Rate()
    rate.update(1, 100.0)
    assert rate.per_second is None
    for number in range(1, 60):
        rate.update(2, 100.0 + 0.1 * number)
    assert rate.per_second == pytest.approx(20.0)
    for number in range(1, 60):
        rate.update(2, 106.0 + 1.0 * number)
    assert rate.per_second == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("stop", [-0.1, 1.0, math.nan])
def test_a_stop_that_is_no_probability_is_refused(stop: float) -> None:
    with pytest.raises(UsageError, match="stop"):
        Plan(confidence_threshold=stop)
