"""Why a plan is as it is: asking changes nothing, and the answer agrees with the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flexspec_mq.controller.explain import MOST, Alternative, Explains, Planned, in_words
from flexspec_mq.controller.plan import Observation, Plan, Policy
from flexspec_mq.controller.policies import ADAPTIVE, POLICIES, name_of
from flexspec_mq.controller.policies.cheapest_qos import CheapestQos
from flexspec_mq.controller.policies.closed_form import ClosedFormPolicy

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
    compute=st.floats(0.01, 0.2),
    forward=st.none() | st.floats(0.01, 0.2),
    draft_time=st.floats(0.001, 0.1),
    worker_drafted=st.floats(0.0, 8.0),
    granted=st.none() | st.integers(1, 8),
    row_cost=st.none() | st.floats(0.0, 0.01),
    queue_mean=st.none() | st.floats(0.0, 0.5),
    disconnects=st.none() | st.floats(0.0, 0.1),
    acceptance=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
)
texts = st.lists(st.tuples(known, st.integers(0, 9), st.floats(0.001, 0.5)), min_size=1, max_size=30)


def text_of(steps: list[tuple[Observation, int, float]]) -> list[Observation]:
    """What a session sees after one batch after another: tokens have come, and time has passed."""
    committed, at, found = 0, 0.0, []
    for seen, tokens, seconds in steps:
        committed, at = committed + tokens, at + seconds
        found.append(replace(seen, committed=committed, at=at))
    return found


@pytest.mark.parametrize("name", POLICIES)
@given(base=bases, steps=texts)
def test_asking_changes_no_plan(name: str, base: Plan, steps: list[tuple[Observation, int, float]]) -> None:
    make: Callable[[Plan], Policy] = POLICIES[name]
    asked, left = CheapestQos(make(base)), CheapestQos(make(base))
    for seen in text_of(steps):
        plan = asked.plan(seen)
        assert plan == left.plan(seen)
        told = Planned(asked, plan, seen).alternatives
        assert told == Planned(asked, plan, seen).alternatives
        assert bool(told) == (name == "closed-form" and base.draft_length > 0)
        chosen = [one for one in told if one.chosen]
        assert len(chosen) == bool(told)
        assert all(one.name == in_words(plan) for one in chosen)


@example(
    base=Plan(draft_length=0, ahead=8, worker_draft=0),
    steps=[
        (Observation(rtt=1.0, compute=0.125, draft_time=0.0625, acceptance=(0.0,)), 0, 0.5),
        (Observation(rtt=0.125, compute=0.015625, draft_time=0.001, acceptance=(0.75,)), 0, 0.5),
    ],
)
@given(base=bases, steps=texts)
def test_what_the_closed_form_tells_agrees_with_its_plan(
    base: Plan, steps: list[tuple[Observation, int, float]]
) -> None:
    policy = ClosedFormPolicy(replace(base, draft_length=4))
    for seen in (one for one, _, _ in steps for _ in range(4)):  # it looks at all plans by every fourth
        plan = policy.plan(seen)
        told = Planned(policy, plan, seen).alternatives
        assert len(told) <= MOST
        seconds = [one.seconds for one in told if one.seconds is not None]
        assert len(seconds) == len(told)
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert len({one.name for one in told}) == len(told)
        (chosen,) = (one for one in told if one.chosen)
        assert chosen.seconds is not None
        assert chosen.name == in_words(plan)
        device = [one for one in told if one.name.startswith("device drafts ")]
        if plan.draft_length:
            nobody = next((one.seconds for one in told if one.name.startswith("nobody drafts, w")), None)
            # Only to see how drafts fare, where nobody is to draft: what was planned before need not be best by 3 %.
            looks = nobody is not None and nobody * 0.9699 <= seconds[0] and chosen.seconds < 1.1 * nobody
            assert looks or chosen.seconds * 0.9699 <= min(one.seconds or 0.0 for one in device)
        elif chosen.name == "worker runs ahead, and drafts if it can" and "nobody" not in {
            one.name.split()[0] for one in policy.alternatives()
        }:
            assert (
                chosen.seconds <= min(one.seconds or 0.0 for one in device) * 1.24
            )  # 1.2, and 3 % of the above
        else:
            assert chosen.seconds * 0.9699 <= seconds[0]


def kinds(told: Sequence[Alternative]) -> list[tuple[str, str]]:
    """Who drafts, and what the worker does."""
    return [(one.name.split()[0], one.name.split(", ")[1]) for one in told]


def test_the_closed_form_tells_the_best_of_each_kind() -> None:
    seen = Observation(
        rtt=0.02, compute=0.04, draft_time=0.0045, acceptance=(0.5, 0.58, 0.62, 0.75), worker_drafted=3.0,
        own_forward=0.05, own_tokens=2.5, own_read=0.0, acceptance_known=(20.0,),
    )  # fmt: skip
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(seen), seen).alternatives
    assert told[0] == Alternative("worker runs ahead, and drafts if it can", 0.02, chosen=True)
    assert kinds(told[1:]) == [("device", "worker runs ahead"), ("device", "worker waits")]
    seen = replace(seen, worker_drafted=0.0)
    policy = ClosedFormPolicy(BASE)
    told = Planned(policy, policy.plan(seen), seen).alternatives
    assert sorted(kinds(told)) == [
        ("device", "worker runs ahead"),
        ("device", "worker waits"),
        ("nobody", "worker runs ahead"),
    ]
    assert Planned(ClosedFormPolicy(BASE), BASE, seen).alternatives == (), "nothing was chosen yet"


@dataclass
class Slow:
    """Has chosen what it holds for the slowest of many."""

    count: int

    def plan(self, seen: Observation) -> Plan:  # noqa: ARG002  the interface of all policies
        return BASE

    def alternatives(self) -> list[Alternative]:
        return [Alternative(str(one), 0.1 * one, one == self.count) for one in range(self.count, 0, -1)]


@given(st.integers(1, 20))
def test_what_was_chosen_is_told_however_slow_it_is(count: int) -> None:
    assert isinstance(Slow(count), Explains)
    told = Planned(Slow(count), BASE, Observation()).alternatives
    assert len(told) == min(count, MOST)
    assert [one.name for one in told[:-1]] == [str(one) for one in range(1, len(told))]
    assert told[-1].chosen


def test_policies_have_their_names() -> None:
    assert [name_of(make(BASE)) for make in POLICIES.values()] == list(POLICIES)
    assert {name_of(CheapestQos(POLICIES[name](BASE))) for name in ADAPTIVE} == ADAPTIVE
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
