"""Why a plan is as it is: asking changes nothing, and the answer agrees with the plan."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.estimates import estimates
from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.explain import Planned, in_words
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies import DEFAULT, POLICIES
from schemas.plan import PlanAlternative
from tests.controller.observed import BASE, BASES, NEAR, but, observations

known = observations(
    rtt=st.floats(0.001, 1.0), forward=st.floats(0.01, 0.2), draft_time=st.floats(0.001, 0.1)
)
texts = st.lists(st.tuples(known, st.integers(0, 9)), min_size=1, max_size=20)


def text_of(steps: list[tuple[Observation, int]]) -> list[Observation]:
    """Observations of a session after one batch after another."""
    committed, seen = 0, []
    for observation, tokens in steps:
        committed += tokens
        seen.append(but(observation, committed=committed))
    return seen


@pytest.mark.parametrize("name", POLICIES)
@given(base=BASES, steps=texts)
def test_asking_changes_no_plan(name: str, base: Plan, steps: list[tuple[Observation, int]]) -> None:
    make: Callable[[Plan], Policy] = POLICIES[name]
    asked, left = make(base), make(base)
    for seen in text_of(steps):
        plan = asked.plan(seen)
        assert plan == left.plan(seen)
        told = Planned(asked, plan, seen).alternatives
        assert told == Planned(asked, plan, seen).alternatives
        assert bool(told) == (name == DEFAULT)
        assert sum(alternative.chosen for alternative in told) == bool(told)
        assert all(each.name == in_words(plan) for each in told if each.chosen)


@given(base=BASES, steps=texts)
def test_what_the_closed_form_tells_agrees_with_its_plan(
    base: Plan, steps: list[tuple[Observation, int]]
) -> None:
    policy = ClosedFormPolicy(replace(base, draft_length=4))
    for seen in (step for step in text_of(steps) for _ in range(4)):  # it looks at all plans by every fourth
        plan = policy.plan(but(seen, drafted=24))  # beyond those of exploration
        told = Planned(policy, plan, seen).alternatives
        seconds = [(each.ms_per_token or 0.0) for each in told]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert len({each.name for each in told}) == len(told)
        (chosen,) = (each for each in told if each.chosen)
        assert chosen.name == in_words(plan)
        assert (chosen.ms_per_token or 0.0) * 0.9699 <= seconds[0]
        assert all(each.allowed and each.j_per_token is None for each in told)


def kinds(told: Sequence[PlanAlternative]) -> list[tuple[str, str]]:
    """Who drafts, and what the worker does."""
    return sorted((each.name.split()[0], each.name.split(", ")[1]) for each in told)


def test_the_closed_form_tells_the_best_of_each_kind() -> None:
    drafts = but(NEAR, worker_per_verdict=3.0, worker_has_read=True)
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(drafts), drafts).alternatives
    assert (told[0].name, told[0].chosen) == ("worker runs ahead, and drafts if it can", True)
    assert told[0].ms_per_token == pytest.approx((40.0 + 3.0 * 1.0) / (1.0 + 3.0 * 0.6125))
    device = [("device", "worker runs ahead"), ("device", "worker waits")]
    assert kinds(told[1:]) == device
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(NEAR), NEAR).alternatives
    assert kinds(told) == [*device, ("nobody", "worker runs ahead")]
    assert Planned(ClosedFormPolicy(BASE), BASE, NEAR).alternatives == (), "nothing was chosen yet"


def test_estimates_are_what_was_observed_and_measured_in_their_units() -> None:
    node = NodeEstimates()
    worker, version = node.worker("w", 0.0), node.version("v", 0.0)
    for number in range(4):
        worker.round_trip.update(0.02 + 0.001 * number, float(number))
        worker.queue.update(0.01, float(number))
        node.draft_time.update(0.0045, float(number))
        version.acceptance.judged([(0, 2)], float(number), wrong=True)
    seen = but(NEAR, sessions=2, draft_time=0.009, worker_per_verdict=1.5)
    told = estimates(seen, worker, version, node)
    for name, value, unit in (
        ("rtt", 20.0, "ms"),
        ("queue_mean", 10.0, "ms"),
        ("forward", 40.0, "ms"),
        ("row_cost", 1.0, "ms"),
        ("draft_time", 9.0, "ms per token"),
        ("worker_drafted", 1.5, "tokens per verdict"),
        ("disconnects", 3600 * node.disconnects.rate, "per hour"),
    ):
        assert told[name].unit == unit
        assert told[name].value == pytest.approx(value)
    assert told["rtt"].error == pytest.approx(1000 * (worker.round_trip.error or 0.0))
    assert told["draft_time"].error == pytest.approx(2000 * (node.draft_time.error or 0.0))
    assert told["acceptance_1"].tries == version.acceptance.known[0] > 3


def test_each_estimate_is_documented_and_unknown_at_first() -> None:
    node = NodeEstimates()
    told = estimates(Observation(), node.worker("w", 0.0), node.version("v", 0.0), node)
    document = (Path(__file__).parents[2] / "docs" / "controller.md").read_text()
    assert [name for name in told if f"`{name}`" not in document] == []
    known = {name for name, estimate in told.items() if estimate.value is not None}
    assert known == {"disconnects", "queueing_delay", *(f"acceptance_{place}" for place in (1, 2, 3, 4))}


@given(BASES, st.integers(0, 16), st.integers(1, 3))
def test_words_say_who_drafts_and_whether_the_worker_goes_on(base: Plan, length: int, window: int) -> None:
    plan = replace(base, draft_length=length, in_flight=window)
    words = in_words(plan)
    assert (f"device drafts K={length} W={window}" in words) == (length > 0)
    assert ("worker runs ahead" in words) == (plan.ahead > 0)
    assert ("worker waits" in words) == (plan.ahead == 0)
    may = plan.ahead > 0 and plan.worker_draft > 0
    assert ("drafts if it can" in words) == may
    assert ("nobody drafts" in words) == (length == 0 and not may)
