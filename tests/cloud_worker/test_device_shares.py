"""Items that share a forward where one device has more to do than others: the scheduler on a tiny model."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_worker.engine.engine import ModelEngine
from cloud_worker.engine.scheduler import Scheduler
from flexspec_mq.models.kv import GRAIN
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.scheduling.costs import ForwardCost
from flexspec_mq.scheduling.slot_budget import CHUNK, SlotBudget
from tests.cloud_worker.test_engine import identity, item, model_of
from tests.models.tiny_packed import VOCABULARY


class GivenCost(ForwardCost):
    """Forwards that take 30 ms, and 1 ms more for each drafted token and token of a prompt, whatever is observed."""

    tell = ForwardCost.observe

    def __init__(self) -> None:
        super().__init__()
        for _ in range(8):
            self.tell(1, 0, 0, 30.0)
            self.tell(2, 16, 32, 78.0)
            self.tell(2, 32, 0, 62.0)

    def observe(self, sessions: int, drafted: int, prompt: int, ms: float) -> None:
        """Forget what the tiny model took."""


def engine_of(
    clock: Callable[[], float] = lambda: 0.0,
    device_prefill: int = 256,
    limit: int | None = None,
    *,
    rationed: bool = False,
) -> ModelEngine:
    budget = SlotBudget(GivenCost(), target=250.0, device_prefill=device_prefill, rationed=rationed)
    engine = ModelEngine(model_of(), limit=limit, budget=budget)
    engine.scheduler._clock = clock
    return engine


def prompt(edge: str, session: int, tokens: int) -> WorkItem:
    one = item(4, 0)
    return replace(
        one, key=(edge, session), context=[1 + at % 9 for at in range(tokens)], prompt_length=tokens
    )


def fed(scheduler: Scheduler) -> Counter[str]:
    """Tokens of the next forward by device; what it would compute is left as it is."""
    scheduler.begin()
    found = Counter[str]()
    for one in scheduler.schedule():
        found[one.item.key[0]] += len(one.model_input.tokens)
    return found


def read(engine: ModelEngine, *items: WorkItem) -> None:
    """Compute what is decided first of prompts."""
    for one in items:
        engine.scheduler.add(one)
    while engine.scheduler.pending:
        engine.step()


def test_what_is_read_slowly_is_counted_and_may_be_set() -> None:
    def slowed(device_prefill: int) -> tuple[int, int]:
        now = 0.0
        engine = engine_of(lambda: now, device_prefill)
        read(engine, prompt("good", 1, 5))
        engine.scheduler.add(prompt("much", 1, 2000))
        tokens = total = 0
        for number in range(60):
            engine.scheduler.add(prompt("good", 1, 5))
            result = engine.step()
            now += 0.04
            if number >= 20:
                tokens += result.fed - 1
                total += result.slowed
        return tokens, total

    tokens, total = slowed(256)
    assert 0 < tokens == total <= 5 * CHUNK
    assert slowed(10_000)[1] == 0


def test_devices_that_begin_share_alike_however_many_prompts_each_has() -> None:
    scheduler = engine_of().scheduler
    for session in range(8):
        scheduler.add(prompt("many", session, 20))
    scheduler.add(prompt("one", 1, 200))
    tokens = fed(scheduler)
    assert tokens["one"] == tokens["many"] == 64


def test_a_device_does_not_pay_for_a_prompt_that_there_is_no_memory_for() -> None:
    engine = engine_of(limit=3 * GRAIN * model_of().new_kv().token_bytes)
    engine.scheduler.add(prompt("first", 1, 2 * GRAIN + 40))
    engine.scheduler.add(prompt("second", 1, GRAIN + 40))
    for _ in range(2):
        assert engine.step().batch == 1
    paid = [engine.scheduler.budget._counter(edge, 0.0) for edge in ("first", "second")]
    assert paid[0] > 60.0
    assert paid[1] == 0.0


def test_sessions_of_a_device_that_has_more_are_held_back_and_come_in_turn() -> None:
    engine = engine_of()
    scheduler, cost = engine.scheduler, ForwardCost()
    for sessions in range(1, 8):
        cost.observe(sessions, 0, 0, 10.0 * sessions)
    for session in range(6):
        read(engine, prompt("evil", session, 5))
    read(engine, prompt("good", 1, 5))
    scheduler.budget.cost = cost
    seen = Counter[tuple[str, int]]()
    for _ in range(12):
        for session in range(6):
            if ("evil", session) not in scheduler.pending:
                scheduler.add(prompt("evil", session, 5))
        scheduler.add(prompt("good", 1, 5))
        slots = scheduler.begin()
        assert (slots.sessions, slots.held_back, len(slots.granted)) == (2, 5, 2)
        decided = [one.item.key for one in scheduler.schedule()]
        assert set(decided) == slots.granted.keys()
        seen.update(decided)
        for key in decided:
            scheduler.drop(key)
    assert seen["good", 1] == 12
    assert all(seen["evil", session] == 2 for session in range(6))
    # Alone each of its sessions waits for all others, however few share a forward.
    slots = scheduler.begin()
    assert len(slots.granted) == 1
    assert slots.sessions == len(scheduler.pending) >= 4


def test_drafts_are_weighed_in_a_forward_that_reads_prompts_as_well() -> None:
    engine = engine_of(rationed=True)
    read(engine, prompt("good", 1, 5))
    engine.scheduler.add(prompt("good", 1, 5))
    plain = engine.scheduler.begin().ms
    for tokens, ms in ((12, 12.0), (400, 0.8 * 30.0)):  # 1 ms for each token that the budget allows
        engine.scheduler.add(prompt("evil", 1, tokens))
        assert engine.scheduler.begin().ms - plain == pytest.approx(ms, rel=0.1)


def test_no_session_waits_while_another_is_served_twice() -> None:
    waited = 0

    @settings(max_examples=8)
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
