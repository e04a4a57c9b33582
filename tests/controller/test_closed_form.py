"""The closed-form policy: what it chooses where the answer is known, and what it may never choose."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.policies.closed_form import ClosedFormPolicy
from flexspec_mq.controller.stopping import choice_of
from schemas.messages import MAX_AHEAD

BASE = Plan(draft_length=4, ahead=8, worker_draft=8)
NEAR = Observation(
    rtt=0.02,
    compute=0.04,
    forward=0.04,
    draft_time=0.0045,
    acceptance=(0.5, 0.58, 0.62, 0.75),
    acceptance_known=(20.0,) * 4,
    row_cost=0.001,
    prompt=100,
    remaining=100,
    worker_verdicts=9,
)

observations = st.builds(
    Observation,
    rtt=st.none() | st.floats(0.0, 2.0),
    compute=st.floats(0.0, 0.5),
    draft_time=st.none() | st.floats(0.0, 0.5),
    worker_drafted=st.floats(0.0, 8.0),
    granted=st.none() | st.integers(1, 8),
    row_cost=st.none() | st.floats(0.0, 0.01),
    queue_mean=st.none() | st.floats(0.0, 0.5),
    acceptance=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
)


def planned(seen: Observation, base: Plan = BASE) -> Plan:
    return ClosedFormPolicy(base).plan(seen)


@given(st.lists(observations, max_size=6), st.sampled_from((0, 4)), st.sampled_from((0, 8)))
def test_plans_keep_to_what_the_user_allows(seen: list[Observation], length: int, ahead: int) -> None:
    policy = ClosedFormPolicy(replace(BASE, draft_length=length, ahead=ahead, qos=1))
    for one in seen:
        plan = policy.plan(one)
        assert plan.qos == 1
        assert plan.worker_draft in (0, 8)
        assert plan.ahead or not plan.worker_draft or plan == policy.base
        assert not plan.draft_length or length
        assert not plan.ahead or ahead
        assert plan.ahead or plan.draft_length or not length
        if one.granted is not None and one.rtt is not None and one.compute and one.draft_time is not None:
            assert plan.draft_length <= one.granted


def test_nothing_known_is_the_plan_that_was_given_but_for_run_ahead() -> None:
    assert replace(planned(Observation()), ahead=8, trip_age=None) == BASE


DRAFTS = replace(NEAR, worker_drafted=3.0, own_forward=0.05, own_tokens=2.5, own_read=0.1)


def test_a_worker_that_drafts_is_left_to_it() -> None:
    plan = planned(replace(DRAFTS, own_read=0.0))
    assert (plan.draft_length, plan.worker_draft) == (0, 8)


def test_where_the_workers_draft_would_have_to_read_a_long_prompt_the_device_drafts() -> None:
    plan = planned(replace(DRAFTS, own_read=3.0, prompt=3000))
    assert plan.draft_length > 0
    assert plan.worker_draft == 8, "what it looks up needs no reading"


def test_until_the_workers_draft_has_read_a_long_prompt_the_device_drafts_as_well() -> None:
    policy = ClosedFormPolicy(BASE)
    reads = replace(DRAFTS, own_forward=0.05, own_tokens=6.0, own_read=1.0, prompt=1000)
    plan = policy.plan(reads)
    assert plan.draft_length > 0
    assert plan.ahead > 0
    assert plan.worker_draft == 8
    for number in range(8):
        plan = policy.plan(replace(reads, own_read=0.0, committed=number))
    assert (plan.draft_length, plan.worker_draft) == (0, 8)


def test_what_a_crowded_worker_puts_off_is_not_drafted() -> None:
    assert planned(NEAR).draft_length > 0
    plan = planned(replace(NEAR, taken=0.1))
    assert plan.draft_length == 0
    assert plan.ahead > 0
    policy = ClosedFormPolicy(BASE)
    assert policy.plan(NEAR).draft_length > 0
    plans = [policy.plan(replace(NEAR, taken=0.1)).draft_length for _ in range(8)]
    assert plans[-1] == 0
    # Where nobody may run ahead somebody has to draft, or ask.
    assert planned(replace(NEAR, taken=0.1), replace(BASE, ahead=0)).draft_length > 0


def test_a_worker_that_drafts_badly_is_not_left_to_it() -> None:
    assert planned(replace(DRAFTS, own_tokens=1.1)).draft_length > 0


def test_beside_the_device_a_worker_may_draft_whatever_it_has_to_read() -> None:
    """Whether reading is worth it is for the worker to say; what it looks up costs nothing."""
    for prompt in (40, 3000):
        plan = planned(replace(NEAR, prompt=prompt))
        assert (plan.draft_length > 0, plan.worker_draft) == (True, 8)


def test_a_good_draft_is_drafted_further_than_a_bad_one() -> None:
    bad = planned(replace(NEAR, acceptance=(0.3, 0.3, 0.3)))
    good = planned(replace(NEAR, acceptance=(0.9, 0.95, 0.95)))
    assert good.draft_length * good.in_flight > bad.draft_length * bad.in_flight


def test_a_useless_draft_is_left_alone() -> None:
    plan = planned(replace(NEAR, acceptance=(0.02,), drafted=24))
    assert plan.draft_length == 0
    assert plan.ahead == MAX_AHEAD


def test_a_draft_that_comes_too_late_is_left_alone() -> None:
    assert planned(replace(NEAR, rtt=1.5, drafted=24)).draft_length == 0


def test_drafts_that_come_too_late_are_left_to_a_worker_that_drafts() -> None:
    """With a device as slow as this no draft is ever there in time, whatever the worker drafts beside it."""
    late = replace(DRAFTS, rtt=0.1, compute=0.03, forward=0.03, draft_time=0.025, drafted=24, prompt=1000)
    for drafted in (0.5, 3.0):  # also where it hardly comes to it, as while others are read
        plan = planned(replace(late, worker_drafted=drafted, own_tokens=1.1))
        assert (plan.draft_length, plan.ahead, plan.worker_draft) == (0, MAX_AHEAD, 8)


def test_where_the_device_drafts_nothing_the_worker_may_whatever_it_has_to_read() -> None:
    plan = planned(replace(NEAR, acceptance=(0.02,), drafted=24, prompt=3000))
    assert (plan.draft_length, plan.worker_draft) == (0, 8)


def test_while_the_device_tries_its_draft_a_worker_may_draft() -> None:
    poor = replace(NEAR, acceptance=(0.02,), prompt=3000)
    for drafted in (0.2, 1.0):
        plan = planned(replace(poor, worker_drafted=drafted))
        assert plan.draft_length > 0
        assert plan.worker_draft == 8


def test_a_plan_that_runs_ahead_only_until_drafts_come_ends_batches_as_one_that_does() -> None:
    policy = ClosedFormPolicy(BASE)
    near = replace(NEAR, rtt=0.002, compute=0.1, forward=0.1, rate=20.0)
    cold, warm = policy.plan(near), policy.plan(replace(near, drafted=1))
    assert (cold.ahead > 0, warm.ahead) == (True, 0)
    assert cold.confidence_threshold < warm.confidence_threshold
    assert choice_of(cold, BASE).length == choice_of(warm, BASE).length


def test_a_slow_target_close_by_waits_for_drafts_and_is_let_go_on_now_and_then() -> None:
    policy = ClosedFormPolicy(BASE)
    seen = replace(NEAR, rtt=0.002, compute=0.1, forward=0.1, drafted=1)
    plans = [policy.plan(seen) for _ in range(32)]
    assert [plan.ahead for plan in plans].count(0) == 30
    assert all(plan.draft_length for plan in plans)


def test_a_session_whose_turn_comes_late_is_in_every_forward_from_then_on() -> None:
    near = replace(NEAR, rtt=0.002, compute=0.1, forward=0.1, drafted=1)

    def aheads(queue: float, base: Plan = BASE) -> list[int]:
        policy = ClosedFormPolicy(base)
        plans = [policy.plan(replace(near, queue=queue, committed=2 * number)) for number in range(24)]
        return [plan.ahead for plan in plans if plan.draft_length]

    assert 0 in aheads(0.0)[12:]
    assert 0 in aheads(0.05)[:12]
    assert all(aheads(0.05)[12:])
    assert not any(aheads(0.05, replace(BASE, ahead=0))), "which the user does not allow"


def test_the_next_session_of_a_node_knows_from_the_beginning_that_its_turn_comes_late() -> None:
    near = replace(NEAR, rtt=0.002, compute=0.1, forward=0.1, drafted=1)
    memory: dict[str, object] = {}

    def aheads(queue: float) -> list[int]:
        policy = ClosedFormPolicy(BASE)
        policy.recall(memory)
        return [policy.plan(replace(near, queue=queue, committed=2 * number)).ahead for number in range(24)]

    assert 0 in aheads(0.05)
    assert all(aheads(0.05))
    assert any(0 in aheads(0.0) for _ in range(10)), "it is tried again some day"


def test_nobody_waits_for_a_device_whose_draft_has_still_to_read_the_text() -> None:
    policy = ClosedFormPolicy(BASE)
    near, far = (replace(NEAR, rtt=rtt, compute=0.1, forward=0.1) for rtt in (0.002, 3.0))

    def planned_after(drafted: int, seen: Observation) -> list[Plan]:
        return [policy.plan(replace(seen, drafted=drafted)) for _ in range(8)]

    assert all(plan.ahead and plan.draft_length for plan in planned_after(0, near)), "at the beginning"
    assert 0 in [plan.ahead for plan in planned_after(4, near)]
    assert planned_after(24, far)[-1].draft_length == 0
    again = planned_after(24, near)[4:]
    assert all(plan.ahead and plan.draft_length for plan in again), "none has come since it drafted nothing"
    assert 0 in [plan.ahead for plan in planned_after(26, near)]


def test_a_choice_stays_while_another_is_hardly_better() -> None:
    policy = ClosedFormPolicy(BASE)
    first = policy.plan(NEAR)
    for rtt in (0.0204, 0.0197, 0.0208, 0.02):
        assert policy.plan(replace(NEAR, rtt=rtt)) == first


FAR = replace(NEAR, rtt=0.62, forward=0.094, compute=0.094, acceptance=(0.4, 0.4, 0.4, 0.4))


def test_each_text_has_some_drafts_where_nobody_should_draft_as_far_as_is_known() -> None:
    looked = planned(replace(FAR, drafted=0))
    assert looked.draft_length > 0
    assert looked.ahead > 0
    assert planned(replace(FAR, drafted=24)).draft_length == 0
    assert planned(replace(FAR, drafted=24, acceptance=(0.95, 0.95, 0.95, 0.95))).draft_length > 0


def test_nothing_is_drafted_only_to_see_where_that_would_cost_time() -> None:
    assert planned(replace(FAR, row_cost=0.5, rtt=0.02)).draft_length == 0
    assert planned(replace(FAR, acceptance=(0.0,))).draft_length == 0


def test_the_looks_of_a_node_are_shared_by_the_texts_that_it_writes() -> None:
    """Texts of 64 tokens would each draft a third of them to see how they fare, on a processor that they share."""
    doubtful = replace(NEAR, acceptance=(0.05,) * 4, forward=0.06, compute=0.06, worker_verdicts=9)

    def looks(sessions: int, drafted: int) -> bool:
        return planned(replace(doubtful, sessions=sessions, drafted=drafted)).draft_length > 0

    assert [looks(1, drafted) for drafted in (0, 12, 23, 24)] == [True, True, True, False]
    assert [looks(3, drafted) for drafted in (0, 7, 8, 12)] == [True, True, False, False]


def test_nobody_waits_for_drafts_before_their_time_and_their_worth_are_known() -> None:
    slow = replace(NEAR, forward=0.2, compute=0.2, acceptance=(0.9,) * 4)
    known = ClosedFormPolicy(BASE)
    plans = [known.plan(replace(slow, drafted=20 * number)) for number in range(8)]
    assert 0 in {plan.ahead for plan in plans}
    for unknown in (
        replace(slow, acceptance_known=(3.0,) * 4),
        replace(slow, draft_time=None, draft_told=slow.draft_time),
    ):
        policy = ClosedFormPolicy(BASE)
        plans = [policy.plan(replace(unknown, drafted=20 * number)) for number in range(8)]
        assert {plan.ahead for plan in plans} == {MAX_AHEAD}
        assert plans[-1].draft_length


def test_before_a_node_has_timed_its_draft_it_plans_by_what_the_worker_says_of_its_own() -> None:
    unknown = replace(NEAR, draft_time=None)
    assert replace(planned(unknown), ahead=8, trip_age=None) == BASE
    assert planned(replace(unknown, draft_told=2.0)).draft_length == 0


def test_where_a_node_writes_many_texts_nobody_drafts() -> None:
    """In the time of a forward the drafter has a token for each of sixteen texts, in a quarter of it for three."""

    def drafts(sessions: int, forward: float = 0.06, token: float | None = 0.004) -> bool:
        timed = None if token is None else sessions * token
        seen = replace(NEAR, forward=forward, compute=forward, draft_time=timed, sessions=sessions)
        policy = ClosedFormPolicy(BASE)
        return any(policy.plan(replace(seen, drafted=number)).draft_length for number in range(12))

    assert [drafts(sessions) for sessions in (1, 2, 3, 4, 8, 16)] == [True, True, True, False, False, False]
    assert drafts(16, forward=0.5), "a slow target leaves the drafter time for all"
    assert [drafts(sessions, token=None) for sessions in (1, 2)] == [True, False]
    assert drafts(1, token=0.03), "a text that has the drafter for itself is weighed as before"
