"""Why a plan is as it is: asking changes nothing, and the answer agrees with the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.explain import MOST, Explains, Planned, in_words
from flexspec_mq.controller.observation import Observation, WorkerDraftsView
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies import DEFAULT, POLICIES, name_of
from schemas.plan import LimitReport, PlanAlternative
from tests.controller.observed import NEAR, but

BASE = Plan(draft_length=4, ahead=8, worker_draft=8)

bases = st.builds(
    Plan,
    draft_length=st.sampled_from((0, 4)),
    ahead=st.sampled_from((0, 8)),
    worker_draft=st.sampled_from((0, 8)),
)
known = st.builds(
    Observation,
    rtt=st.floats(0.001, 1.0),
    forward=st.floats(0.01, 0.2),
    draft_time=st.floats(0.001, 0.1),
    draft_timed=st.just(True),
    judged=st.floats(0.0, 20.0),
    row_cost=st.none() | st.floats(0.0, 0.01),
    acceptance=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
    worker=st.builds(
        WorkerDraftsView, per_verdict=st.floats(0.0, 8.0), granted=st.none() | st.integers(1, 8)
    ),
)
texts = st.lists(st.tuples(known, st.integers(0, 9)), min_size=1, max_size=20)


def text_of(steps: list[tuple[Observation, int]]) -> list[Observation]:
    """Observations of a session after one batch after another."""
    committed, seen = 0, []
    for one, tokens in steps:
        committed += tokens
        seen.append(but(one, committed=committed))
    return seen


@pytest.mark.parametrize("name", POLICIES)
@given(base=bases, steps=texts)
def test_asking_changes_no_plan(name: str, base: Plan, steps: list[tuple[Observation, int]]) -> None:
    make: Callable[[Plan], Policy] = POLICIES[name]
    asked, left = make(base), make(base)
    for seen in text_of(steps):
        plan = asked.plan(seen)
        assert plan == left.plan(seen)
        told = Planned(asked, plan, seen).alternatives
        assert told == Planned(asked, plan, seen).alternatives
        assert bool(told) == (name == DEFAULT)
        assert sum(one.chosen for one in told) == bool(told)
        assert all(one.name == in_words(plan) for one in told if one.chosen)


@given(base=bases, steps=texts)
def test_what_the_closed_form_tells_agrees_with_its_plan(
    base: Plan, steps: list[tuple[Observation, int]]
) -> None:
    policy = ClosedFormPolicy(replace(base, draft_length=4))
    for seen in (one for one in text_of(steps) for _ in range(4)):  # it looks at all plans by every fourth
        plan = policy.plan(but(seen, drafted=24))  # beyond those that are drafted only to see how they fare
        told = Planned(policy, plan, seen).alternatives
        assert len(told) <= MOST
        seconds = [(one.ms_per_token or 0.0) for one in told]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert len({one.name for one in told}) == len(told)
        (chosen,) = (one for one in told if one.chosen)
        assert chosen.name == in_words(plan)
        assert (chosen.ms_per_token or 0.0) * 0.9699 <= seconds[0]
        assert all(one.allowed and one.j_per_token is None for one in told)


def kinds(told: Sequence[PlanAlternative]) -> list[tuple[str, str]]:
    """Who drafts, and what the worker does."""
    return sorted((one.name.split()[0], one.name.split(", ")[1]) for one in told)


def test_the_closed_form_tells_the_best_of_each_kind() -> None:
    drafts = but(NEAR, worker_per_verdict=3.0, worker_forward=0.05, worker_tokens=2.5, worker_unread=0.0)
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(drafts), drafts).alternatives
    assert told[0] == PlanAlternative(
        name="worker runs ahead, and drafts if it can", ms_per_token=20.0, chosen=True
    )
    assert kinds(told[1:]) == [("device", "worker runs ahead"), ("device", "worker waits")]
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(NEAR), NEAR).alternatives
    assert kinds(told) == [
        ("device", "worker runs ahead"),
        ("device", "worker waits"),
        ("nobody", "worker runs ahead"),
    ]
    assert Planned(ClosedFormPolicy(BASE), BASE, NEAR).alternatives == (), "nothing was chosen yet"


@dataclass
class Slow:
    """Has chosen what it holds for the slowest of many."""

    count: int

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        return BASE

    def alternatives(self) -> list[PlanAlternative]:
        return [
            PlanAlternative(name=str(one), ms_per_token=100.0 * one, chosen=one == self.count)
            for one in range(self.count, 0, -1)
        ]

    def limits(self) -> list[LimitReport]:
        return []

    def ended(self, seen: Observation) -> None: ...


@given(st.integers(1, 20))
def test_what_was_chosen_is_told_however_slow_it_is(count: int) -> None:
    assert isinstance(Slow(count), Explains)
    told = Planned(Slow(count), BASE, Observation()).alternatives
    assert len(told) == min(count, MOST)
    assert [one.name for one in told[:-1]] == [str(one) for one in range(1, len(told))]
    assert told[-1].chosen


def test_policies_have_their_names() -> None:
    assert [name_of(make(BASE)) for make in POLICIES.values()] == list(POLICIES)
    assert name_of(Slow(1)) == "Slow"


@given(bases, st.integers(0, 16), st.integers(1, 3))
def test_words_say_who_drafts_and_whether_the_worker_goes_on(base: Plan, length: int, window: int) -> None:
    plan = replace(base, draft_length=length, in_flight=window)
    words = in_words(plan)
    assert (f"device drafts K={length} W={window}" in words) == (length > 0)
    assert ("worker runs ahead" in words) == (plan.ahead > 0)
    assert ("worker waits" in words) == (plan.ahead == 0)
    may = plan.ahead > 0 and plan.worker_draft > 0
    assert ("drafts if it can" in words) == may
    assert ("nobody drafts" in words) == (length == 0 and not may)
