"""Limits of energy, battery and time per token: no plan breaks one while another keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.controller.calibration import Calibration
from flexspec_mq.controller.choices import Choice
from flexspec_mq.controller.explain import LimitReport, Planned
from flexspec_mq.controller.limits.choosing import Bounds, allowed
from flexspec_mq.controller.limits.limits import Limits
from flexspec_mq.controller.limits.means import Ledger, TokenPace
from flexspec_mq.controller.limits.outlook import Option, Outlook
from flexspec_mq.controller.limits.states import LimitStates, state_of
from flexspec_mq.controller.plan import Observation, Plan, Policy
from flexspec_mq.controller.policies import ADAPTIVE, POLICIES, name_of
from flexspec_mq.controller.policies.cheapest_qos import CheapestQos
from flexspec_mq.controller.policies.within_limits import WithinLimits
from flexspec_mq.energy.presets import built_in
from flexspec_mq.energy.text import ModelledEnergy, PerToken

BASE = Plan(draft_length=4, ahead=8, worker_draft=8, qos=1)
NEAR = Observation(
    rtt=0.02,
    compute=0.04,
    forward=0.04,
    draft_time=0.0045,
    acceptance=(0.7, 0.75, 0.8, 0.8),
    acceptance_known=(20.0,) * 4,
    row_cost=0.001,
    prompt=20,
    remaining=100,
    worker_verdicts=9,
)
SLOW = replace(NEAR, compute=0.2, forward=0.2)
"""A slow target close by: drafts of the device save much time."""


def modelled(preset: str = "raspberry-pi-5") -> ModelledEnergy:
    device = built_in().device(preset)
    return ModelledEnergy(preset, device.power, built_in().radio(device.radio).power, 1)


ENERGY = modelled()

bases = st.builds(
    Plan,
    draft_length=st.sampled_from((0, 1, 4)),
    ahead=st.sampled_from((0, 8)),
    worker_draft=st.sampled_from((0, 8)),
)
observations = st.builds(
    Observation,
    rtt=st.none() | st.floats(0.001, 1.0),
    compute=st.just(0.0) | st.floats(0.01, 0.2),
    forward=st.none() | st.floats(0.01, 0.2),
    draft_time=st.none() | st.floats(0.001, 0.1),
    drafted=st.integers(0, 9),
    worker_drafted=st.floats(0.0, 8.0),
    own_forward=st.none() | st.floats(0.01, 0.3),
    own_tokens=st.none() | st.floats(1.0, 5.0),
    granted=st.none() | st.integers(1, 8),
    row_cost=st.none() | st.floats(0.0, 0.01),
    queue_mean=st.none() | st.floats(0.0, 0.5),
    prompt=st.integers(1, 2000),
    acceptance=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16).map(tuple),
    battery=st.none() | st.floats(0.0, 1.0),
)
steps = st.lists(
    st.tuples(observations, st.integers(0, 5), st.floats(0.001, 0.5), st.floats(0.0, 3.0)),
    min_size=1,
    max_size=12,
)


def text_of(found: list[tuple[Observation, int, float, float]]) -> list[Observation]:
    """What a session sees plan after plan: tokens have come, and time and energy have gone."""
    committed, at, joules, seen = 0, 0.0, 0.0, []
    for one, tokens, seconds, drawn in found:
        committed, at, joules = committed + tokens, at + seconds, joules + drawn
        began = at if committed else None
        seen.append(replace(one, committed=committed, at=began, joules=joules, remaining=100))
    return seen


def drafts_to_learn(seen: Observation, plan: Plan) -> bool:
    """A batch of two by which a draft is timed that never was."""
    return seen.draft_time is None and not seen.drafted and 0 < plan.draft_length <= 2


@pytest.mark.parametrize("name", sorted(ADAPTIVE))
@settings(max_examples=25, deadline=None)
@given(base=bases, found=steps, floor=st.floats(0.1, 0.9), budget=st.none() | st.floats(0.01, 1.0))
def test_below_its_floor_a_battery_pays_for_no_draft(
    name: str,
    base: Plan,
    found: list[tuple[Observation, int, float, float]],
    floor: float,
    budget: float | None,
) -> None:
    limits = Limits(battery_floor=floor, energy_budget=budget, energy=ENERGY)
    policy = WithinLimits(POLICIES[name](base), base, limits)
    for seen in text_of(found):
        plan = policy.plan(seen)
        (report,) = (one for one in policy.limits() if one.name == "battery_floor")
        if seen.battery is not None and seen.battery < floor:
            assert not plan.draft_length
            assert report.state == "below"
        else:
            assert report.state == "kept"


@pytest.mark.parametrize("name", sorted(ADAPTIVE))
@settings(max_examples=25, deadline=None)
@given(base=bases, found=steps, budget=st.floats(0.005, 2.0), target=st.none() | st.floats(0.005, 0.5))
def test_no_plan_is_beyond_a_limit_that_another_is_within(
    name: str,
    base: Plan,
    found: list[tuple[Observation, int, float, float]],
    budget: float,
    target: float | None,
) -> None:
    limits = Limits(energy_budget=budget, latency_target=target, energy=ENERGY)
    policy = WithinLimits(POLICIES[name](base), base, limits)
    ledger, pace, drafts = Ledger(), TokenPace(), False
    joules, committed = 0.0, 0
    for seen in text_of(found):
        plan = policy.plan(seen)
        ledger.spent((seen.joules or 0.0) - joules, seen.committed - committed)
        joules, committed = seen.joules or 0.0, seen.committed
        pace.mean(seen)
        if seen.rtt is None or not (seen.forward or seen.compute):
            assert not plan.draft_length, "nothing is known"
            continue
        if drafts_to_learn(seen, plan):
            drafts = True
            continue
        most = ledger.allowed(budget, seen.remaining)
        told = policy.alternatives()
        chosen = next(one for one in told if one.chosen)
        assert chosen.joules is not None
        assert chosen.seconds is not None
        least = min(one.joules for one in told if one.joules is not None)
        assert chosen.joules <= max(most, least) * (1 + 1e-9)
        if target is not None:
            within = [one for one in told if (one.joules or inf) <= max(most, least)]
            fastest = min(one.seconds or inf for one in within)
            assert chosen.seconds <= max(pace.allowed(target, seen), fastest) * (1 + 1e-9)
        # What is told of the choice is what the plan does, and what was told of the others is so.
        assert bool(plan.draft_length) == chosen.name.startswith("device")
        drafts = drafts or plan.draft_length > 0


@pytest.mark.parametrize("name", sorted(ADAPTIVE))
@settings(max_examples=25, deadline=None)
@given(seen=observations, base=bases, budget=st.floats(0.005, 2.0))
def test_the_first_plan_beside_all_that_could_be_planned(
    name: str, seen: Observation, base: Plan, budget: float
) -> None:
    """Against forecasts that are made here, with no word of the policy."""
    seen = replace(seen, rtt=seen.rtt or 0.05, forward=seen.forward or 0.03, committed=0, joules=None)
    policy = WithinLimits(POLICIES[name](base), base, Limits(energy_budget=budget, energy=ENERGY))
    plan = policy.plan(seen)
    outlook = Outlook(base, Calibration(), ENERGY)
    outlook.saw(seen, 0.0, drafts=False)

    def joules(choice: Choice) -> float:
        found = outlook.option(choice).joules
        assert found is not None
        return found

    least = min(one.joules or inf for one in outlook.options())
    # A plan whose worker waits is lent run-ahead, to see whether the worker drafts.
    ways = [Choice(plan.draft_length, plan.in_flight, ahead) for ahead in {plan.ahead > 0, False}]
    if plan.draft_length or plan.ahead or not base.ahead:
        assert min(map(joules, ways)) <= max(budget, least) * (1 + 1e-9)


@pytest.mark.parametrize("name", sorted(ADAPTIVE))
def test_before_anything_was_measured_a_budget_has_the_device_draft_nothing(name: str) -> None:
    for base in (BASE, replace(BASE, ahead=0)):
        policy = WithinLimits(POLICIES[name](base), base, Limits(energy_budget=0.5, energy=ENERGY))
        assert policy.plan(Observation()).draft_length == 0
        assert policy.limits()[0].state == "unknown"
        free = WithinLimits(POLICIES[name](base), base, Limits(latency_target=0.1, energy=ENERGY))
        assert free.plan(Observation()).draft_length == base.draft_length


@pytest.mark.parametrize("name", sorted(ADAPTIVE))
def test_what_no_limit_excludes_is_planned_as_without(name: str) -> None:
    make: Callable[[Plan], Policy] = POLICIES[name]
    policy = WithinLimits(make(BASE), BASE, Limits(energy_budget=1e6, battery_floor=0.2, energy=ENERGY))
    free = make(BASE)
    for number in range(40):
        seen = replace(NEAR, committed=3 * number, at=0.1 * number, joules=0.5 * number, battery=0.9)
        assert policy.plan(seen) == free.plan(seen)


def test_a_budget_changes_the_plan_where_it_must() -> None:
    free = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=10.0, energy=ENERGY))
    plan = free.plan(SLOW)
    assert plan.draft_length > 0
    dear = replace(ENERGY, cores=400)
    tight = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=0.9, energy=dear))
    assert tight.plan(SLOW).draft_length == 0
    (report,) = tight.limits()
    assert report.name == "energy_budget"


def test_a_target_is_met_with_the_least_energy_that_meets_it() -> None:
    def planned(target: float) -> tuple[Plan, WithinLimits]:
        policy = WithinLimits(
            POLICIES["closed-form"](BASE),
            BASE,
            Limits(latency_target=target, energy=replace(ENERGY, cores=40)),
        )
        return policy.plan(SLOW), policy

    lavish, _ = planned(1.0)
    assert lavish.draft_length == 0, "nobody drafts where there is time"
    needed, policy = planned(0.15)
    assert needed.draft_length > 0
    told = policy.alternatives()
    (chosen,) = (one for one in told if one.chosen)
    assert chosen.seconds is not None
    assert chosen.seconds <= 0.15
    assert all(one.allowed == ((one.seconds or 0.0) <= 0.95 * 0.15) for one in told)
    _, policy = planned(0.001)
    policy.plan(SLOW)
    (report,) = policy.limits()
    assert report.state == "out_of_reach"
    assert report.reach is not None
    assert report.reach > 1.0


def test_without_any_energy_a_target_is_met_with_the_fewest_bytes() -> None:
    policy = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(latency_target=0.15))
    plan = policy.plan(SLOW)
    outlook = Outlook(BASE, Calibration(), None)
    outlook.saw(SLOW, 0.0, drafts=False)
    within = [one for one in outlook.options() if one.seconds <= 0.95 * 0.15]
    least = min(within, key=lambda one: one.size)
    assert (plan.draft_length, plan.in_flight) == (least.choice.length, least.choice.window)
    assert all(one.joules is None for one in policy.alternatives())


def option(length: int, seconds: float, joules: float | None) -> Option:
    return Option(Choice(length, 1, True), False, seconds, seconds, joules, 100.0)


options = st.lists(
    st.builds(option, st.integers(1, 16), st.floats(0.001, 1.0), st.floats(0.001, 1.0)), max_size=9
)


@given(options, st.floats(-0.5, 1.0), st.floats(-0.5, 1.0), st.booleans(), st.booleans())
def test_what_bounds_leave(
    more: list[Option], joules: float, seconds: float, drafts: bool, frugal: bool
) -> None:
    """Energy comes before time, and what comes closest is taken where nothing is within."""
    every = [option(0, 0.2, 0.4), *more]
    found = allowed(every, Bounds(joules, seconds, drafts))
    best = found.best(None, frugal=frugal)
    able = [one for one in every if drafts or not one.choice.length]
    cheap = [one for one in able if (one.joules or 0.0) <= joules]
    assert best in able
    if cheap:
        assert best in cheap
        quick = [one for one in cheap if one.seconds <= seconds]
        assert best in quick if quick else best.seconds == min(one.seconds for one in cheap)
    else:
        assert best.joules == min(one.joules or 0.0 for one in able)
    assert all(found.has(one, Bounds(joules, seconds, drafts)) for one in found.left)


class Unknown:
    """A meter that has not told anything."""

    def expected(self, one: PerToken) -> float | None:  # noqa: ARG002  the interface
        return None


def test_while_no_energy_is_known_the_device_drafts_nothing() -> None:
    policy = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=9.0, energy=Unknown()))
    assert policy.plan(SLOW).draft_length == 0


def test_what_was_saved_may_be_spent_and_a_debt_is_paid_back() -> None:
    ledger = Ledger()
    assert ledger.mean is None
    ledger.spent(10.0, 100)
    assert ledger.mean == pytest.approx(0.1)
    assert ledger.allowed(0.2, 1000) > 0.2
    assert ledger.allowed(0.09, 1000) < 0.09
    assert ledger.allowed(0.2, 4) > ledger.allowed(0.2, 1000) > 0.2, "what is left is spent until the end"


@given(st.floats(0.05, 1.0), st.lists(st.floats(0.0, 2.0), min_size=50, max_size=200))
def test_who_takes_what_is_allowed_keeps_the_budget(budget: float, wants: list[float]) -> None:
    """Whatever texts took before: each token takes what it wants, or what is allowed where that is less."""
    ledger = Ledger()
    ledger.spent(20 * budget, 4)
    for want in wants:
        ledger.spent(max(0.0, min(want * budget, ledger.allowed(budget, 1000))), 1)
    debt = 16 * budget * 0.97 ** (len(wants))  # of which a 32nd is paid by each token
    assert ledger.mean is not None
    assert ledger.mean <= budget + debt / len(wants) + 1e-9


def test_time_that_was_lost_is_made_up_for_and_none_is_saved() -> None:
    pace = TokenPace()
    first = replace(NEAR, committed=2, at=10.0)
    assert pace.mean(first) is None
    assert pace.allowed(0.1, first) == pytest.approx(0.095)
    late = replace(NEAR, committed=12, at=12.0)
    assert pace.mean(late) == pytest.approx(0.2)
    assert pace.allowed(0.1, late) == pytest.approx(0.095 - 1.0 / 32)
    early = replace(NEAR, committed=112, at=13.0)
    assert pace.allowed(0.1, early) == pytest.approx(0.095)


def test_states_are_told_once_and_when_they_last() -> None:
    told: list[str] = []
    states = LimitStates()

    def saw(state: str, tokens: int) -> None:
        report = LimitReport("energy_budget", 0.3, "J per token", state, 0.4, 0.35)  # type: ignore[arg-type]
        states.saw(report, tokens, told.append)

    saw("exceeded", 5)
    saw("kept", 5)
    for _ in range(20):
        saw("out_of_reach", 4)
    assert told == [
        "energy budget of 0.3 J per token cannot be kept now: 0.4 so far; the best plan is expected to take 0.35"
    ]
    for _ in range(20):
        saw("unknown", 4)
        saw("out_of_reach", 4)
    assert len(told) == 1
    for _ in range(20):
        saw("kept", 4)
    assert told[1:] == ["energy budget of 0.3 J per token is kept: 0.4 so far"]


@pytest.mark.parametrize(
    ("mean", "reach", "state"),
    [
        (None, None, "unknown"),
        (None, 0.2, "unknown"),
        (None, 0.4, "out_of_reach"),
        (0.2, 0.4, "kept"),
        (0.4, 0.2, "exceeded"),
        (0.4, 0.4, "out_of_reach"),
        (0.4, None, "exceeded"),
    ],
)
def test_how_a_limit_stands(mean: float | None, reach: float | None, state: str) -> None:
    assert state_of(0.3, mean, reach) == state


def test_the_texts_of_a_node_share_what_they_spent() -> None:
    memory: dict[str, object] = {}

    def text() -> WithinLimits:
        policy = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=0.5, energy=ENERGY))
        policy.recall(memory)
        return policy

    first = text()
    first.plan(replace(NEAR, joules=0.0))
    first.plan(replace(NEAR, committed=10, at=1.0, joules=50.0))
    first.ended(replace(NEAR, committed=50, at=2.0, joules=60.0))
    (report,) = first.limits()
    assert report.value == pytest.approx(60 / 50, rel=0.01)
    assert report.state == "out_of_reach", "50 J until the first tokens are too much for texts of 50 tokens"
    second = text()
    assert second.plan(replace(SLOW, joules=0.0)).draft_length == 0 or (report.reach or 0.0) > 0.5
    assert second.limits()[0].value == pytest.approx(60 / 50, rel=0.01)


def test_a_policy_whose_plan_is_replaced_learns_nothing_from_it() -> None:
    def memory_after(budget: float) -> dict[str, object]:
        memory: dict[str, object] = {}
        energy = replace(ENERGY, cores=400)
        policy = WithinLimits(
            POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=budget, energy=energy)
        )
        policy.recall(memory)
        for number in range(60):
            plan = policy.plan(replace(SLOW, committed=2 * number, at=5.0 * number, joules=0.0))
            assert bool(plan.draft_length) == (budget > 10)
        return memory

    waits = Choice(4, 1, False)
    kept, free = memory_after(0.001)["calibration"], memory_after(1e6)["calibration"]
    assert isinstance(kept, Calibration)
    assert isinstance(free, Calibration)
    assert kept.ratio(waits) == Calibration().ratio(waits)
    assert free.ratio(waits) > Calibration().ratio(waits), (
        "five seconds for two tokens are more than expected"
    )


def test_a_draft_that_was_never_timed_is_tried_a_few_times() -> None:
    policy = WithinLimits(POLICIES["closed-form"](BASE), BASE, Limits(energy_budget=0.001, energy=ENERGY))
    unknown = replace(NEAR, draft_time=None, joules=0.0)
    assert policy.plan(unknown).draft_length == 0, "the text has no token yet"
    plans = [policy.plan(replace(unknown, committed=number, at=0.1 * number)) for number in range(1, 40)]
    assert [bool(plan.draft_length) for plan in plans] == [True] * 8 + [False] * 31
    assert {plan.draft_length for plan in plans} == {0, 2}
    assert policy.plan(replace(unknown, committed=99, at=9.0, drafted=4)).draft_length >= 0


def test_wrapped_policies_keep_their_names_and_tell_their_limits() -> None:
    for name in ADAPTIVE:
        inner = WithinLimits(POLICIES[name](BASE), BASE, Limits(energy_budget=0.5, energy=ENERGY))
        policy = CheapestQos(inner)
        assert name_of(policy) == name
        planned = Planned(policy, policy.plan(NEAR), NEAR)
        assert [one.name for one in planned.limits] == ["energy_budget"]
        assert planned.alternatives
    assert Planned(POLICIES["fixed"](BASE), BASE, NEAR).limits == ()
