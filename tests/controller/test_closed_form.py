"""The closed form and its forecast: what it chooses where the answer is known, how batches end, and bounds for all."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from operator import mul

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.estimators.worker import WorkerDrafts
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.rl import RlPolicy
from flexspec_mq.controller.round_model import ASKS, Drafting, RoundTimes, drafting
from schemas.messages import MAX_AHEAD
from tests.controller.observed import BASE, NEAR, but


def planned(seen: Observation, base: Plan = BASE) -> Plan:
    return ClosedFormPolicy(base).plan(seen)


@pytest.mark.parametrize("make", [RlPolicy, ClosedFormPolicy])
def test_nothing_known_is_the_plan_that_was_given_but_for_look_ahead(make: Callable[[Plan], Policy]) -> None:
    assert replace(make(BASE).plan(Observation()), ahead=8, trip_age=None) == BASE
    assert planned(Observation(), replace(BASE, ahead=0)) == replace(BASE, ahead=0)


DRAFTS = but(NEAR, worker_per_verdict=3.0, worker_has_read=True)


def test_a_worker_that_drafts_is_left_to_it_unless_it_drafts_badly_or_has_a_long_prompt_to_read() -> None:
    plan = planned(DRAFTS)
    assert (plan.draft_length, plan.worker_draft) == (0, 8)
    assert planned(but(DRAFTS, worker_per_verdict=0.1)).draft_length > 0
    plan = planned(but(DRAFTS, worker_has_read=False, worker_read=0.001, prompt=3000))
    assert plan.draft_length > 0
    assert plan.worker_draft == 8, "what it looks up needs no reading, and reading is for the worker to weigh"


def test_one_model_drafts_at_a_time() -> None:
    slow = but(NEAR, worker_token=0.01, worker_per_verdict=2.0)
    assert (planned(slow).draft_length > 0, planned(slow).worker_draft) == (True, 0)
    assert planned(but(slow, worker_token=0.001, worker_has_read=True)).draft_length == 0
    assert planned(but(slow, draft_timed=False)).worker_draft == 8, "the device may have lookups alone"
    assert planned(but(slow, worker_token=0.0)).worker_draft == 8, "or the worker"


def test_a_worker_is_known_by_what_it_says_until_it_has_drafted() -> None:
    """Nothing is tried only to see whether it drafts; what it makes tells more, and is forgotten while it may not."""
    quick = but(NEAR, worker_token=0.002, worker_read=0.0, worker_verdicts=0, rtt=0.06)
    assert planned(quick).draft_length == 0
    assert planned(but(quick, worker_verdicts=9, worker_per_verdict=0.1)).draft_length > 0, "it is crowded"
    assert planned(but(quick, worker_read=0.01)).draft_length > 0, "reading holds up forwards"
    drafts = WorkerDrafts()
    for _ in range(100):
        drafts.update(0, None)
    assert drafts.verdicts >= ASKS
    for _ in range(100):
        drafts.update(0, None, may=False)
    assert drafts.verdicts < ASKS


def test_a_good_draft_is_drafted_further_than_a_bad_one() -> None:
    bad = planned(but(NEAR, acceptance=(0.3, 0.3, 0.3)))
    good = planned(but(NEAR, acceptance=(0.9, 0.95, 0.95)))
    assert good.draft_length * good.in_flight > bad.draft_length * bad.in_flight


@pytest.mark.parametrize("seen", [but(NEAR, acceptance=(0.02,)), but(NEAR, rtt=1.5)])
def test_a_draft_that_is_useless_or_late_is_left_alone(seen: Observation) -> None:
    plan = planned(but(seen, drafted=24, prompt=3000))
    assert (plan.draft_length, plan.ahead, plan.worker_draft) == (0, MAX_AHEAD, 8)


def test_drafts_that_come_too_late_are_left_to_a_worker_that_drafts() -> None:
    """With a device as slow as this no draft is ever there in time, whatever the worker drafts beside it."""
    late = but(DRAFTS, rtt=0.1, forward=0.03, draft_time=0.025, drafted=24)
    for drafted in (0.5, 3.0):  # also where it hardly comes to it, as while others are read
        plan = planned(but(late, worker_per_verdict=drafted))
        assert (plan.draft_length, plan.ahead, plan.worker_draft) == (0, MAX_AHEAD, 8)


SLOW = but(NEAR, rtt=0.002, forward=0.1, drafted=1)
"""A slow target close by, whose worker should wait for drafts."""


def test_a_session_whose_turn_comes_late_is_in_every_forward() -> None:
    assert planned(SLOW).ahead == 0
    crowded = but(SLOW, queueing_delay=0.03)
    assert planned(crowded).ahead == MAX_AHEAD
    assert planned(crowded, replace(BASE, ahead=0)).ahead == 0, "which the user does not allow"


def test_nobody_waits_for_a_device_whose_draft_has_still_to_read_the_text() -> None:
    policy = ClosedFormPolicy(BASE)
    far = but(SLOW, rtt=3.0)

    def planned_after(drafted: int, seen: Observation) -> list[Plan]:
        return [policy.plan(but(seen, drafted=drafted)) for _ in range(8)]

    assert all(plan.ahead and plan.draft_length for plan in planned_after(0, SLOW)), "at the beginning"
    assert {plan.ahead for plan in planned_after(4, SLOW)} == {0}
    assert planned_after(24, far)[-1].draft_length == 0
    again = planned_after(24, SLOW)[4:]
    assert all(plan.ahead and plan.draft_length for plan in again), "none has come since it drafted nothing"
    assert {plan.ahead for plan in planned_after(26, SLOW)} == {0}


def test_a_worker_of_which_nobody_knows_whether_it_drafts_is_let_draft() -> None:
    plans = [planned(but(SLOW, worker_verdicts=verdicts)) for verdicts in range(6)]
    assert [plan.worker_draft for plan in plans] == [8, 8, 8, 8, 0, 0]


def test_a_choice_stays_while_another_is_hardly_better() -> None:
    policy = ClosedFormPolicy(BASE)
    first = policy.plan(NEAR)
    for rtt in (0.0204, 0.0197, 0.0208, 0.02):
        for _ in range(4):
            assert policy.plan(but(NEAR, rtt=rtt)) == first


FAR = but(NEAR, rtt=0.62, forward=0.094, acceptance=(0.4, 0.4, 0.4, 0.4))


def test_each_text_has_some_drafts_where_nobody_should_draft_as_far_as_is_known() -> None:
    looked = planned(FAR)
    assert looked.draft_length > 0
    assert looked.ahead > 0
    assert planned(but(FAR, drafted=24)).draft_length == 0
    assert planned(but(FAR, drafted=24, acceptance=(0.95, 0.95, 0.95, 0.95))).draft_length > 0
    assert planned(but(FAR, row_cost=0.5, rtt=0.02)).draft_length == 0, "that would cost time"
    assert planned(but(FAR, acceptance=(0.0,))).draft_length == 0


def test_the_exploration_of_a_node_is_shared_by_the_texts_that_it_writes() -> None:
    """Texts of 64 tokens would each draft a third of them as exploration, on a processor that they share."""
    doubtful = but(NEAR, acceptance=(0.05,) * 4, forward=0.06)

    def explores(sessions: int, drafted: int) -> bool:
        return planned(but(doubtful, sessions=sessions, drafted=drafted)).draft_length > 0

    assert [explores(1, drafted) for drafted in (0, 12, 23, 24)] == [True, True, True, False]
    assert [explores(3, drafted) for drafted in (0, 7, 8, 12)] == [True, True, False, False]


def test_nobody_waits_for_drafts_before_their_time_and_their_worth_are_known() -> None:
    slow = but(NEAR, forward=0.2, acceptance=(0.9,) * 4, drafted=1)
    assert planned(slow).ahead == 0
    for unknown in (but(slow, judged=3.0), but(slow, draft_timed=False)):
        plan = planned(unknown)
        assert plan.ahead == MAX_AHEAD
        assert plan.draft_length


def test_before_a_node_has_timed_its_draft_it_plans_by_what_the_worker_says_of_its_own() -> None:
    unknown = but(NEAR, draft_time=None, draft_timed=False)
    assert replace(planned(unknown), ahead=8, trip_age=None) == BASE
    assert planned(but(unknown, draft_time=2.0)).draft_length == 0


def test_where_a_node_writes_many_texts_nobody_drafts() -> None:
    """In the time of a forward the drafter has a token for each of sixteen texts, in a quarter of it for three."""

    def drafts(sessions: int, forward: float = 0.06, token: float | None = 0.004) -> bool:
        timed = None if token is None else sessions * token
        seen = but(NEAR, forward=forward, draft_time=timed, sessions=sessions, draft_timed=timed is not None)
        policy = ClosedFormPolicy(BASE)
        return any(policy.plan(but(seen, drafted=number)).draft_length for number in range(12))

    assert [drafts(sessions) for sessions in (1, 2, 3, 4, 8, 16)] == [True, True, True, False, False, False]
    assert drafts(16, forward=0.5), "a slow target leaves the drafter time for all"
    assert [drafts(sessions, token=None) for sessions in (1, 2)] == [True, False]
    assert drafts(1, token=0.03), "a text that has the drafter for itself is weighed as before"


@given(st.floats(0.1, 500.0), st.floats(1.0, 10.0))
def test_the_dearer_a_token_is_the_surer_it_has_to_be(rate: float, times: float) -> None:
    seen = but(SLOW, rate=rate)
    before = planned(seen).confidence_threshold
    assert 0.02 <= before <= planned(but(seen, rate=times * rate)).confidence_threshold <= 0.3


def test_drafting_beside_forwards_costs_rows_only_and_a_threshold_of_the_user_is_kept() -> None:
    waiting, ahead = (planned(but(SLOW, rate=40.0, drafted=drafted)) for drafted in (1, 0))
    assert (waiting.ahead, ahead.ahead) == (0, MAX_AHEAD)
    assert waiting.confidence_threshold == pytest.approx(40.0 * 0.0055)
    assert ahead.confidence_threshold == pytest.approx(40.0 * 0.001)
    assert planned(SLOW).confidence_threshold == 0.0, "the rate is not known"
    assert planned(but(SLOW, rate=20.0, draft_timed=False)).confidence_threshold == 0.0
    user = planned(but(SLOW, rate=20.0), replace(BASE, confidence_threshold=0.6))
    assert user.confidence_threshold == 0.6


seconds = st.floats(0.001, 0.5)
rounds = st.builds(
    RoundTimes,
    round_trip=seconds,
    forward=seconds,
    row=st.floats(0.0, 0.005),
    token=seconds,
    acceptance=st.lists(st.floats(0.0, 0.95), min_size=1, max_size=16).map(tuple),
    wait=st.floats(0.0, 0.1),
)
lengths = st.integers(1, 16)


@given(rounds, lengths)
def test_one_batch_after_another_takes_what_its_parts_take(times: RoundTimes, length: int) -> None:
    """The draft is never right about the token behind a batch: nothing is drafted in vain, and nothing ahead."""
    places = [*times.acceptance, *[times.acceptance[-1]] * length][:length]
    tokens = 1 + sum(accumulate(places, mul))
    took = times.round_trip + length * times.token + times.wait + times.forward + length * times.row
    forecast = drafting(structs.replace(times, acceptance=(*places, 0.0)), Drafting(length, 1, False))
    assert forecast.seconds == pytest.approx(took / tokens)
    assert forecast.verdicts == pytest.approx(1 / tokens)


@given(rounds, lengths, st.integers(1, 4))
def test_a_worker_that_goes_on_is_never_slower_than_streaming_but_for_its_rows(
    times: RoundTimes, length: int, window: int
) -> None:
    forecast = drafting(times, Drafting(length, window, True))
    assert forecast.seconds <= times.forward + length * window * times.row + 1e-9


@given(rounds, lengths, st.integers(1, 4), st.booleans())
def test_all_that_is_expected_is_possible(times: RoundTimes, length: int, window: int, ahead: bool) -> None:
    forecast = drafting(times, Drafting(length, window, ahead))
    assert forecast.seconds * (1 + length * window) >= times.forward - 1e-9
    assert forecast.drafted >= 0
    assert 1 / (1 + length * window) <= forecast.verdicts + 1e-9 <= 1 + 2e-9


def test_a_second_batch_on_its_way_is_worth_more_the_longer_that_is() -> None:
    near = RoundTimes(round_trip=0.002, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    far = RoundTimes(round_trip=0.06, forward=0.04, row=0.001, token=0.005, acceptance=(0.6,))
    gains = [
        drafting(times, Drafting(4, 1, True)).seconds / drafting(times, Drafting(4, 2, True)).seconds
        for times in (near, far)
    ]
    assert gains[1] > gains[0] > 0.99
