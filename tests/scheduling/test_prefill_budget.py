"""Reading adapts to what it costs, and is shared fairly."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud_worker.engine.engine import ModelEngine
from flexspec_mq.scheduling.prefill_budget import LEAST, PrefillBudget
from flexspec_mq.scheduling.prefill_shares import divide
from tests.cloud_worker.test_engine import identity, item, model_of
from tests.models.tiny_packed import VOCABULARY


@dataclass(frozen=True)
class Machine:
    """Cost of forwards: ms in any case, for each token that writes, and for each piece of so many that are read."""

    fixed: float
    write: float
    read: float
    piece: int = 1

    def alone(self, writing: int) -> float:
        return self.fixed + self.write * writing

    def ms(self, writing: int, reading: int) -> float:
        return self.alone(writing) + self.read * self.piece * -(-reading // self.piece)

    def reads(self, ms: float) -> int:
        """Tokens, at least 1, that surely add no more than so much."""
        return max(1, int(ms / self.read) - self.piece + 1)


TARGETS = st.sampled_from((50.0, 250.0, 1000.0))
WRITERS = st.integers(1, 64)


def machines(piece: int = 1) -> st.SearchStrategy[Machine]:
    """From a GPU to a model that is far too large: 2 ms to 5 s a forward, a token read for 1/1000 to 1/8 of that."""
    return st.builds(
        lambda fixed, write, read: Machine(fixed, fixed * write, fixed * read, piece),
        st.floats(2.0, 5000.0),
        st.floats(0.0, 0.1),
        st.floats(0.001, 0.125),
    )


@settings(deadline=None)
@given(machines(), TARGETS, WRITERS, st.lists(WRITERS, min_size=1, max_size=60))
@example(Machine(2.0, 0.0, 0.25), 50.0, 2, [1, 1, 1, 1, 1, 1, 1, 1, 8])
def test_reading_stretches_no_step_by_more_than_the_bound(
    machine: Machine, target: float, before: int, during: Sequence[int]
) -> None:
    """Whatever number of tokens writes in each."""
    pace = PrefillBudget(most=512, target=target)
    for _ in range(8):
        pace.observe(before, 0, machine.alone(before))
    for writing in during:
        reading = pace.budget(writing)
        took = machine.ms(writing, reading)
        assert took <= 1.001 * max(pace.stretch * machine.alone(writing), machine.ms(writing, LEAST))
        pace.observe(writing, reading, took)


@settings(deadline=None)
@given(st.sampled_from((1, 32)).flatmap(machines), TARGETS, WRITERS, st.integers(2, 4000))
def test_a_prompt_beside_sessions_that_write_is_read_within_a_number_of_steps(
    machine: Machine, target: float, writing: int, prompt: int
) -> None:
    """Also where steps take longer than the target without it: reading gets a third of the time."""
    pace = PrefillBudget(most=128, target=target)
    for _ in range(8):
        pace.observe(writing, 0, machine.alone(writing))
    steps = steps_to_read(pace, machine, writing, prompt)
    each = min(128, max(LEAST, machine.reads(machine.alone(writing) / 2)))
    assert steps <= 12 + 1.25 * prompt / each


@settings(deadline=None)
@given(st.sampled_from((1, 32)).flatmap(machines), TARGETS, st.integers(2, 4000))
def test_a_prompt_alone_is_read_within_a_number_of_steps(
    machine: Machine, target: float, prompt: int
) -> None:
    """Where a target just about allows the most, a token seems to take longer than it does now and then."""
    pace = PrefillBudget(most=128, target=target)
    steps = steps_to_read(pace, machine, 0, prompt)
    light = machine.ms(0, LEAST)
    each = min(128, max(LEAST, machine.reads(max(target, pace.stretch * light) - machine.fixed)))
    assert steps <= 12 + 1.45 * prompt / each


def steps_to_read(pace: PrefillBudget, machine: Machine, writing: int, prompt: int) -> int:
    """Forwards until a prompt is read; where no session writes none takes longer than it may."""
    steps = 0
    while prompt:
        reading = min(pace.budget(writing), prompt)
        took = machine.ms(writing, reading)
        if not writing and machine.piece == 1:
            assert took <= 1.001 * max(pace.target, pace.stretch * machine.ms(0, LEAST))
        pace.observe(writing, reading, took)
        prompt -= reading
        steps += 1
    return steps


SIZES = st.integers(0, 5000)


@given(st.lists(st.tuples(SIZES, SIZES, st.floats(0, 1e6)), max_size=30), st.integers(0, 600))
def test_whatever_was_measured_the_budget_is_within_its_bounds(
    seen: list[tuple[int, int, float]], writing: int
) -> None:
    pace = PrefillBudget(most=256, least=8)
    for tokens, read, ms in seen:
        pace.observe(tokens, read, ms)
    assert 8 <= pace.budget(0) <= 256
    budgets = [pace.budget(writing)]
    pace.observe(writing, 0, 5.0)
    budgets.append(pace.budget(writing))
    assert all(budget == 0 or 8 <= budget <= 256 for budget in budgets)
    assert budgets[1] >= 8 or not writing


# Fairness


@given(st.integers(0, 400), st.lists(st.integers(2, 200), max_size=20))
def test_a_budget_is_divided_in_order_and_not_wasted(budget: int, unread: list[int]) -> None:
    wants = {("e", number): most for number, most in enumerate(unread)}
    shares = divide(budget, wants)
    assert list(shares) == list(wants)[: len(shares)]
    assert all(0 < share <= wants[key] for key, share in shares.items())
    spent = sum(shares.values())
    assert spent <= budget
    assert spent == sum(unread) or budget - spent < 2
    if len(unread) * 16 <= budget:
        least = budget // max(1, len(unread))
        assert all(shares[key] >= min(most, least) for key, most in wants.items())


def test_no_session_waits_while_another_is_served_twice() -> None:
    waited = 0

    @settings(max_examples=12, deadline=None)
    @given(st.sampled_from((8, 16, 20, 40, 64)), st.integers(0, 2**32))
    def check(budget: int, seed: int) -> None:
        nonlocal waited
        waited += most_served_while_another_waits(budget, seed)

    check()
    assert waited > 0


def most_served_while_another_waits(budget: int, seed: int) -> int:
    """Prompts of any length come at any time. Between two turns of one, no other may have more than one."""
    rng = random.Random(seed)
    engine = ModelEngine(model_of(), prefill=budget)
    scheduler = engine.scheduler
    coming = {("edge", number): (rng.randrange(20), rng.choice((2, 10, 30, 90, 200))) for number in range(12)}
    waits: dict[tuple[str, int], dict[tuple[str, int], int]] = {}
    most = 0
    for step in range(2000):
        for key, (at, length) in list(coming.items()):
            if at <= step:
                del coming[key]
                context = tuple(rng.randrange(VOCABULARY) for _ in range(length))
                one = replace(
                    item(0, 0), key=key, context=context, prompt_length=length, identity=identity(key[1])
                )
                scheduler.add(one)
                waits[key] = {}
        before = {key: scheduler.unread(one) for key, one in scheduler.pending.items()}
        decided = {one.key for one, _ in engine.step().decided}
        left = {key: scheduler.unread(one) for key, one in scheduler.pending.items()}
        served = decided | {key for key, unread in left.items() if unread < before[key]}
        for key, others in waits.items():
            if key in served:
                others.clear()
                continue
            for other in served:
                others[other] = others.get(other, 0) + 1
                most = max(most, others[other])
                assert others[other] < 2, f"{key} waits while {other} is served twice"
        for key in decided:
            del waits[key]
        if not coming and not scheduler.pending:
            assert not scheduler._served
            return most
    raise AssertionError("not all prompts were read")


def test_while_sessions_write_some_forwards_read_nothing() -> None:
    """So a change of what they take without reading is seen within a few steps."""
    pace = PrefillBudget()
    for alone in (50.0, 150.0):
        for _ in range(100):
            reading = pace.budget(8)
            pace.observe(8, reading, alone + reading)
        assert pace._alone.at(8) == pytest.approx(alone, rel=0.05)


def test_the_target_bounds_steps_beside_sessions_that_write() -> None:
    pace = PrefillBudget(most=512, target=100.0)
    sizes = []
    for _ in range(60):
        sizes.append(pace.budget(8))
        pace.observe(8, sizes[-1], 60.0 + sizes[-1])
    assert 36 <= max(sizes[30:]) <= 42  # 60 + 40 is the target; the stretch would allow 48


def test_where_none_writes_the_target_bounds_steps_and_some_read_the_least() -> None:
    pace = PrefillBudget(most=512, target=100.0)
    sizes = []
    for _ in range(100):
        sizes.append(pace.budget(0))
        pace.observe(0, sizes[-1], 40.0 + 1.2 * sizes[-1])
    assert max(sizes) <= 60
    assert 44 <= sizes[-1] <= 50  # 40 + 1.2 · 50 is the target
    assert sizes[10:].count(pace.least) >= 2


def test_what_reading_adds_to_a_forward_is_known() -> None:
    pace = PrefillBudget(most=512, target=5000.0)
    for _ in range(60):
        reading = pace.budget(8)
        pace.observe(8, reading, 60.0 + 1.2 * reading)
    assert pace.budget(8)
    assert pace.adds(8, 0) == 0.0
    for unread in (8, 20):
        assert pace.adds(8, unread) == pytest.approx(1.2 * unread, rel=0.1)
    assert pace.adds(8, 10_000) <= 1.1 * (pace.stretch - 1) * 60.0
