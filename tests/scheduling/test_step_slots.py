"""Which drafted tokens get a slot: what is best for all who share a forward, by what slots cost."""

from itertools import product
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.scheduling.costs import ForwardCost, LinearCost
from flexspec_mq.scheduling.slot_budget import PRIOR, SlotBudget
from flexspec_mq.scheduling.step_slots import GIVES, StepSlots


def key(number: int) -> SessionKey:
    return ("edge", number)


def expected(confidence: float, slots: int) -> float:
    """Tokens that a session gets by so many slots for its draft."""
    return sum(confidence**place for place in range(slots + 1))


def learned(base: float, session: float, slot: float, *, rationed: bool = True) -> SlotBudget:
    """A budget that has seen forwards of all sizes, which take so many ms."""
    cost = ForwardCost()
    for sessions, slots in product((1, 2, 5, 8, 16), (0, 1, 4, 9, 16, 40)):
        cost.observe(sessions, slots, 0, base + session * sessions + slot * slots)
    return SlotBudget(cost, rationed=rationed)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0.05, 0.99)), min_size=1, max_size=4),
    st.floats(0.05, 20.0),
)
def test_slots_are_given_out_for_the_good_of_all_and_at_no_sessions_cost(
    drafts: list[tuple[int, float]], slot: float
) -> None:
    """The slots with the highest sum of logarithms of tokens per second, if nobody pays for it."""
    sessions = range(len(drafts))
    step = StepSlots(
        len(drafts), 30.0, slot, (0.0, 0.0, 0.0), LinearCost(()), {key(n): 1.0 for n in sessions}
    )
    step.grant({key(n): one for n, one in enumerate(drafts)}, 100)

    def tokens(slots: tuple[int, ...]) -> list[float]:
        return [expected(confidence, count) for (_, confidence), count in zip(drafts, slots, strict=True)]

    def value(slots: tuple[int, ...]) -> float:
        return sum(map(log, tokens(slots))) - len(drafts) * log(30.0 + slot * sum(slots))

    def nobody_pays(slots: tuple[int, ...]) -> bool:
        return len(drafts) == 1 or 30.0 + slot * sum(slots) <= 30.0 * max(
            1.0 + GIVES, (1.0 + min(tokens(slots))) / 2
        )

    granted = tuple(step.granted[key(n)] for n in sessions)
    best = max(
        product(*(range(most + 1) for most, _ in drafts)),
        key=lambda slots: (value(slots), min(tokens(slots))),
    )
    assert step.ms == pytest.approx(30.0 + slot * sum(granted))
    assert not any(granted) or nobody_pays(granted)
    assert value(granted) >= value((0,) * len(drafts))
    if nobody_pays(best):
        assert value(granted) >= value(best) - 1e-9


def test_before_anything_is_known_all_slots_are_granted() -> None:
    drafts = {key(n): 8 for n in range(40)}
    assert SlotBudget().step(drafts, {}, 0.0).granted == drafts


def test_sessions_whose_drafts_come_by_turns_bear_each_others_slots() -> None:
    """Half of them have drafts in each forward. None got more than a token before, and all get slots now."""
    budget = learned(40.0, 4.0, 1.3)
    granted = []
    for turn in range(64):
        drafts = {key(n): 4 * ((n + turn) % 2) for n in range(8)}
        step = budget.step(drafts, {}, 0.0)
        granted.append(sum(step.granted.values()))
        for n in range(8):
            budget.decided(key(n), 1, 0, wrong=False)
    assert min(granted[-8:]) >= 4
    listeners = {key(n): 0 for n in range(100, 108)}
    for _ in range(8):
        step = budget.step({key(n): 4 for n in range(8)} | listeners, {}, 0.0)
        assert 1.3 * sum(step.granted.values()) <= GIVES * (40 + 4 * 16)


def test_drafts_that_are_never_right_are_not_verified_but_tried_again_some_day() -> None:
    budget = learned(20.0, 4.0, 2.0)
    for _ in range(60):
        budget.decided(key(1), 1, 0, wrong=True)
    drafts = {key(n): 0 for n in range(2, 17)} | {key(1): 4}
    cut = [budget.step(drafts, {}, 0.0).cut for _ in range(200)]
    assert cut[0] == 4
    assert min(cut) < 4


def test_a_device_that_drafts_at_random_gets_few_slots_however_many_sessions_it_opens() -> None:
    budget = learned(20.0, 4.0, 2.0)
    honest = {(f"good {n}", n): 0 for n in range(3)}
    for mine in honest:
        for _ in range(40):
            budget.decided(mine, 3, 0, wrong=False)
    slots = []
    for number in range(600):
        evil = ("evil", number // 2)
        granted = budget.step({**honest, evil: 64}, {}, 0.0).granted[evil]
        budget.decided(evil, 1, 0, wrong=granted > 0)
        slots.append(granted)
    assert slots[0] > 1
    assert sum(slots[-300:]) < 300
    assert any(slots[-300:])
    assert budget.acceptance(("good", 9)) == PRIOR


def test_the_draft_stops_for_others_before_slots_do() -> None:
    """A forward of the draft costs as much as several slots: with more sessions it goes first."""
    budget = learned(40.0, 4.0, 1.3)
    for sessions in (1, 2, 4, 8, 16):
        for _ in range(5):
            budget.calls.observe((sessions, 0), 3.0 + 2.5 * sessions)
    calls, slots = [], []
    for sessions in (1, 2, 4, 8, 16, 32, 64):
        step = budget.step({key(n): 1 for n in range(sessions)}, {}, 0.0)
        slots.append(sum(step.granted.values()) / sessions)
        fresh = budget.step({key(n): 0 for n in range(sessions)}, {}, 0.0)
        calls.append(len(fresh.worth_calling({key(n): (0.6, 0.0) for n in range(sessions)})) / sessions)
    assert calls[0] == slots[0] == 1
    assert sum(calls) < sum(slots)
    assert calls[-1] == 0


def test_a_call_is_for_those_that_it_helps() -> None:
    step = StepSlots(3, 40.0, 0.5, (3.0, 2.0, 0.0), LinearCost(()), {key(n): 2.0 for n in range(1, 4)})
    assert step.worth_calling({key(1): (0.9, 0), key(2): (0.01, 0), key(3): (0.8, 0)}) == [
        key(1),
        key(3),
    ]
    assert step.worth_calling({key(2): (0.01, 0)}) == []
    for _ in range(12):
        step.spend(4.0)
        assert step.take(key(1), 0.9)
    assert step.worth_calling({key(1): (0.3, 0)}) == []


def test_where_drafts_are_alike_the_price_of_a_slot_is_learned_by_trying_half() -> None:
    cost = ForwardCost()
    budget = SlotBudget(cost)
    halves = 0
    for _ in range(200):
        step = budget.step({key(n): 4 for n in range(4)}, {}, 0.0)
        slots = sum(step.granted.values())
        halves += slots == 8
        cost.observe(4, slots, 0, 40.0 + 16.0 * slots)
    assert halves >= 1
    assert step.slot == pytest.approx(16.0, rel=0.5)
    assert slots < 16


def test_a_draft_that_seemed_too_dear_is_tried_again_and_its_price_known_at_once() -> None:
    """A slow forward, as when the machine is busy, must not keep the draft from all texts to come."""
    budget = learned(30.0, 1.0, 0.5)
    budget.calls.observe((1, 0), 60.0)

    def worth() -> bool:
        return bool(budget.step({key(1): 0}, {}, 0.0).worth_calling({key(1): (0.6, 0.0)}))

    refused = 0
    while not worth():
        refused += 1
        budget.calls.fade()
    assert 100 < refused < 1000
    budget.calls.observe((1, 0), 60.0)
    assert not worth()
    while not worth():
        budget.calls.fade()
    budget.calls.observe((1, 0), 4.0)
    assert budget.step({key(1): 0}, {}, 0.0).call[0] < 8.0


def test_without_rationing_everything_is_granted() -> None:
    budget = learned(1.0, 0.0, 100.0, rationed=False)
    step = budget.step({key(n): 4 for n in range(50)}, {}, 0.0)
    assert set(step.granted.values()) == {4}
    step.spend(500.0)
    assert len(step.worth_calling({key(n): (0.01, 9.0) for n in range(50)})) == 50
    assert step.take(key(1), 0.01)


def test_one_slow_forward_does_not_make_slots_dear_for_ever() -> None:
    cost = LinearCost((0.03, 0.01))
    for number in range(40):
        cost.observe((10, number % 5), 50.0 + 1.0 * (number % 5))
    cost.observe((10, 1), 250.0)
    for _ in range(150):
        cost.observe((10, 0), 50.0)  # as they seem dear
    assert cost.each(1) < 2.0
