"""Limits of energy, battery and time per token: no plan breaks one while another keeps it."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.explain import Planned, limit_in_words
from flexspec_mq.controller.limits import Ledger, Limits, Option, TextLimits, TokenPace, _reported
from flexspec_mq.controller.observation import DeviceReading, Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.round_model import Drafting
from flexspec_mq.energy.model import ModelledEnergy
from flexspec_mq.energy.presets import built_in
from tests.controller.observed import BASES, NEAR, but, observations

BASE = Plan(draft_length=4, ahead=8, worker_draft=8, qos=1)
GOOD = but(NEAR, acceptance=(0.7, 0.75, 0.8, 0.8), prompt=20)
SLOW = but(GOOD, forward=0.2)
"""A slow target close by: drafts of the device save much time."""
PI = built_in().devices["raspberry-pi-5"]
ENERGY = ModelledEnergy("pi", PI.power, built_in().radios[PI.radio].power, 1)

Step = tuple[Observation, int, float, float]
drawn = observations(device=st.builds(DeviceReading, battery=st.none() | st.floats(0.0, 1.0)))
drawn_steps = st.lists(
    st.tuples(drawn, st.integers(0, 5), st.floats(0.001, 0.5), st.floats(0.0, 3.0)), min_size=1, max_size=12
)


def limited(base: Plan = BASE, **limits: object) -> ClosedFormPolicy:
    return ClosedFormPolicy(base, limits=Limits(**{"energy": ENERGY, **limits}))  # type: ignore[arg-type]


def text_of(steps: list[Step]) -> list[Observation]:
    """Observations of a session, plan after plan: tokens have come, and time and energy have gone."""
    committed, at, joules, text = 0, 0.0, 0.0, []
    for seen, tokens, seconds, taken in steps:
        committed, at, joules = committed + tokens, at + seconds, joules + taken
        began = at if committed else None
        text.append(but(seen, committed=committed, at=began, device_joules=joules, remaining=100))
    return text


@given(base=BASES, steps=drawn_steps, floor=st.floats(0.1, 0.9), budget=st.none() | st.floats(0.01, 1.0))
def test_below_its_floor_a_battery_pays_for_no_draft(
    base: Plan, steps: list[Step], floor: float, budget: float | None
) -> None:
    policy = limited(base, battery_floor=floor, energy_budget=budget)
    for seen in text_of(steps):
        plan = policy.plan(seen)
        (report,) = (one for one in policy.limits() if one.name == "battery_floor")
        if seen.device.battery is not None and seen.device.battery < floor:
            assert not plan.draft_length
            assert report.state == "below"
        else:
            assert report.state == "kept"


@given(base=BASES, steps=drawn_steps, budget=st.floats(0.005, 2.0), target=st.none() | st.floats(0.005, 0.5))
def test_no_plan_is_beyond_a_limit_that_another_is_within(
    base: Plan, steps: list[Step], budget: float, target: float | None
) -> None:
    policy = limited(base, energy_budget=budget, latency_target=target)
    ledger, pace = Ledger(), TokenPace()
    joules, committed = 0.0, 0
    for seen in text_of(steps):
        plan = policy.plan(seen)
        ledger.spent((seen.device.joules or 0.0) - joules, seen.committed - committed)
        joules, committed = seen.device.joules or 0.0, seen.committed
        pace.mean(seen)
        if seen.rtt is None or not seen.forward:
            assert not plan.draft_length, "nothing is known"
            continue
        most = ledger.allowed(budget, seen.remaining)
        told = policy.alternatives()
        chosen = next(one for one in told if one.chosen)
        assert chosen.j_per_token is not None
        least = min(one.j_per_token for one in told if one.j_per_token is not None)
        assert chosen.j_per_token <= max(most, least) * (1 + 1e-9) or chosen.j_per_token == least
        if target is not None:
            within = [one for one in told if (one.j_per_token or inf) <= max(most, least)]
            fastest = min((one.ms_per_token or inf for one in within), default=inf) / 1000
            assert (chosen.ms_per_token or inf) / 1000 <= max(pace.allowed(target, seen), fastest) * 1.2
        # The alternative that is marked as chosen is the one that the plan carries out.
        assert bool(plan.draft_length) == chosen.name.startswith("device")


def test_before_anything_was_measured_a_budget_has_the_device_draft_nothing() -> None:
    for base in (BASE, replace(BASE, ahead=0)):
        policy = limited(base, energy_budget=0.5)
        assert policy.plan(Observation()).draft_length == 0
        assert policy.limits()[0].state == "unknown"
        assert limited(base, latency_target=0.1).plan(Observation()).draft_length == base.draft_length


def test_what_no_limit_excludes_is_planned_as_without() -> None:
    policy, free = limited(energy_budget=1e6, battery_floor=0.2), ClosedFormPolicy(BASE)
    for number in range(40):
        seen = but(
            GOOD, committed=3 * number, at=0.1 * number, device_joules=0.5 * number, device_battery=0.9
        )
        assert policy.plan(seen) == free.plan(seen)


def test_a_target_is_met_with_the_least_energy_that_meets_it() -> None:
    def planned(target: float) -> tuple[Plan, ClosedFormPolicy]:
        policy = limited(latency_target=target, energy=replace(ENERGY, cores=40))
        return policy.plan(SLOW), policy

    lavish, _ = planned(1.0)
    assert lavish.draft_length == 0, "nobody drafts where there is time"
    needed, policy = planned(0.15)
    assert needed.draft_length > 0
    told = policy.alternatives()
    (chosen,) = (one for one in told if one.chosen)
    assert (chosen.ms_per_token or inf) <= 150.0
    assert {one.allowed for one in told} == {True, False}
    _, policy = planned(0.001)
    policy.plan(SLOW)
    (report,) = policy.limits()
    assert report.state == "out_of_reach"
    assert report.reach is not None
    assert report.reach > 1.0


def test_without_any_energy_drafts_break_a_budget_and_a_target_is_met_with_the_fewest_bytes() -> None:
    assert limited(energy_budget=10.0).plan(SLOW).draft_length > 0
    assert limited(energy_budget=0.9, energy=replace(ENERGY, cores=400)).plan(SLOW).draft_length == 0
    assert limited(energy_budget=9.0, energy=None).plan(SLOW).draft_length == 0
    policy = limited(latency_target=0.15, energy=None)
    plan = policy.plan(SLOW)
    least = min(policy._left, key=lambda option: option.size)
    assert (plan.draft_length, plan.in_flight) == (least.way.length, least.way.window)


def option(length: int, seconds: float, joules: float | None) -> Option:
    return Option(Drafting(length, 1, True), False, seconds, joules, 100.0)


options = st.lists(
    st.builds(option, st.integers(1, 16), st.floats(0.001, 1.0), st.floats(0.001, 1.0)), max_size=9
)


@given(options, st.floats(0.001, 1.0), st.floats(0.001, 1.0))
def test_what_limits_leave(more: list[Option], joules: float, seconds: float) -> None:
    """Energy comes before time, and what comes closest is taken where nothing is within."""
    every = [option(0, 0.2, 0.4), *more]
    limits = TextLimits(Limits(energy_budget=joules, latency_target=seconds / 0.95))
    left = limits.within(every, Observation())
    cheap = [one for one in every if (one.joules or 0.0) <= joules]
    if not cheap:
        assert [one.joules for one in left] == [min(one.joules or 0.0 for one in every)]
        return
    quick = [one for one in cheap if one.seconds <= 0.95 * (seconds / 0.95)]
    assert list(left) == (quick or [min(cheap, key=lambda one: one.seconds)])


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
    first = but(NEAR, committed=2, at=10.0)
    assert pace.mean(first) is None
    assert pace.allowed(0.1, first) == pytest.approx(0.095)
    late = but(NEAR, committed=12, at=12.0)
    assert pace.mean(late) == pytest.approx(0.2)
    assert pace.allowed(0.1, late) == pytest.approx(0.095 - 1.0 / 32)
    early = but(NEAR, committed=112, at=13.0)
    assert pace.allowed(0.1, early) == pytest.approx(0.095)


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
    report = _reported("energy_budget", 0.3, "J per token", mean, reach)
    assert report.state == state
    assert limit_in_words(report).startswith("energy budget of 0.3 J per token ")


def test_the_texts_of_a_node_share_what_they_spent() -> None:
    limits = Limits(energy_budget=0.5, energy=ENERGY)
    first = ClosedFormPolicy(BASE, limits=limits)
    first.plan(but(GOOD, device_joules=0.0))
    first.plan(but(GOOD, committed=10, at=1.0, device_joules=50.0))
    first.ended(but(GOOD, committed=50, at=2.0, device_joules=60.0))
    (report,) = first.limits()
    assert report.value == pytest.approx(60 / 50, rel=0.01)
    assert report.state == "out_of_reach", "50 J until the first tokens are too much for texts of 50 tokens"
    second = ClosedFormPolicy(BASE, limits=limits)
    planned = Planned(second, second.plan(but(SLOW, device_joules=0.0)), SLOW)
    assert planned.limits[0].value == pytest.approx(60 / 50, rel=0.01)


def test_a_draft_that_was_never_timed_is_tried_and_then_taken_for_what_it_costs() -> None:
    policy = limited(energy_budget=0.9, energy=replace(ENERGY, cores=400))
    unknown = but(SLOW, draft_time=None, draft_timed=False, device_joules=0.0)
    assert policy.plan(unknown).draft_length == 2
    assert policy.plan(but(unknown, drafted=2)).draft_length > 2, "it was looked up"
    assert policy.plan(but(unknown, draft_time=0.1, draft_timed=True)).draft_length == 0
