"""Who shares a forward, and how much of whose prompts it reads: whatever one device asks for, others lose little."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud_worker.settings import WorkerSettings
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.scheduling.costs import ForwardCost
from flexspec_mq.scheduling.slot_budget import (
    CHUNK,
    DEVICE_PREFILL,
    DEVICE_PREFILL_SHARE,
    LEAST,
    PROBE,
    STRETCH,
    SlotBudget,
    divide,
    weight,
)
from flexspec_mq.scheduling.step_slots import GIVES

MANY = [("evil", session) for session in range(60)]


class Takes(ForwardCost):
    """A cost of forwards by their number of sessions alone."""

    def __init__(self, ms: Callable[[int], float]) -> None:
        super().__init__()
        self._given = ms

    def takes(self, sessions: int) -> float:
        return self._given(sessions)


def dear(sessions: int) -> float:
    """As on a processor: much for each session."""
    return 20.0 + 4.0 * sessions


def cheap(sessions: int) -> float:
    """As on an accelerator."""
    return 20.0 + 0.01 * sessions


def chosen(
    budget: SlotBudget, waiting: Sequence[SessionKey], reading: Collection[str] = (), now: float = 0.0
) -> list[SessionKey]:
    """Sessions that wait and share the next forward, beside prompts of these devices."""
    return list(budget.step(dict.fromkeys(waiting, 0), {(edge, 99): 2 for edge in reading}, now).granted)


# Sessions


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 30)), unique=True, min_size=1, max_size=60),
    st.floats(0.0, 50.0),
    st.floats(0.01, 50.0),
)
def test_every_device_has_a_slot_and_those_with_few_sessions_lose_little(
    waiting: list[tuple[str, int]], base: float, slot: float
) -> None:
    def ms(sessions: int) -> float:
        return base + slot * sessions

    found = chosen(SlotBudget(Takes(ms)), waiting)
    has, got = Counter(edge for edge, _ in waiting), Counter(edge for edge, _ in found)
    fewest = min(has.values())
    assert all(got[edge] >= fewest for edge in has)
    if len(has) > 1:
        assert ms(len(found)) <= (1 + GIVES) * ms(fewest * len(has)) + 1e-9
    else:
        assert len(found) == len(waiting)


def test_a_prompt_that_is_read_counts_as_a_session_that_waits() -> None:
    assert len(chosen(SlotBudget(Takes(dear)), MANY, {"good"})) == 1
    assert len(chosen(SlotBudget(Takes(dear)), MANY, {"evil"})) == 60


def test_a_forward_is_short_where_others_may_be_back_soon() -> None:
    budget = SlotBudget(Takes(dear))
    chosen(budget, [("good", 1)])
    count = len(chosen(budget, MANY, now=1.0))
    assert dear(count) <= (1 + STRETCH) * dear(1) < dear(count + 1)
    assert len(chosen(budget, MANY, now=5.0)) == 60


def test_sessions_that_are_away_count_until_they_are_over() -> None:
    """Where sessions draft, those of a device come one by one: it must not seem to have only one."""
    drafting, many = ([(edge, number) for number in range(4)] for edge in ("drafting", "many"))
    budget = SlotBudget(Takes(dear))
    chosen(budget, [*drafting, *many])
    back = [drafting[0], *many]
    assert len(chosen(budget, back, now=0.1)) == 5
    budget.forget(drafting[1])
    assert len(chosen(budget, back, now=0.2)) == 4
    assert len(chosen(budget, back, now=5.0)) == 2


def test_one_forward_in_sixteen_leaves_out_what_rides_along() -> None:
    waiting = [("many", session) for session in range(9)] + [("one", 1)]
    budget = SlotBudget(Takes(cheap))
    lengths = [len(chosen(budget, waiting)) for _ in range(2 * PROBE)]
    assert (lengths.count(2), lengths.count(10)) == (2, 30)


@given(
    st.dictionaries(st.tuples(st.sampled_from("abcd"), st.integers(0, 30)), st.integers(0, 8)),
    st.integers(1, 8),
)
def test_nobody_gets_more_slots_than_asked_for_and_the_rest_is_told(
    drafts: dict[SessionKey, int], batch: int
) -> None:
    step = SlotBudget(Takes(dear), batch=batch).step(drafts, {}, 0.0)
    assert len(step.granted) == len(drafts) - step.held_back <= batch
    assert all(0 <= granted <= drafts[key] for key, granted in step.granted.items())
    assert sum(step.granted.values()) + step.cut == sum(drafts[key] for key in step.granted)


@given(st.integers(1, 40), st.floats(5.0, 50.0), st.floats(0.1, 8.0))
def test_what_rides_along_is_found_by_measuring(many: int, base: float, slot: float) -> None:
    """Slots are dearer, or cheaper, than they are first taken to be."""

    def takes(sessions: int) -> float:
        return base + slot * 4 * -(-sessions // 4)  # in blocks of four

    budget = SlotBudget(ForwardCost())
    waiting = [("many", session) for session in range(many)] + [(f"one{n}", 1) for n in range(3)]
    spent = []
    for _ in range(200):
        sessions = len(chosen(budget, waiting))
        spent.append(takes(sessions))
        budget.cost.observe(sessions, 0, 0, spent[-1])
    assert sum(spent[100:]) <= (1 + GIVES) * 100 * takes(4) + 2 * slot * 40


def test_what_was_measured_counts_and_not_a_line_through_it() -> None:
    cost = ForwardCost()
    assert cost.takes(4) == 0.0
    for _ in range(100):
        cost.observe(4, 0, 0, 29.0)
        cost.observe(8, 0, 0, 60.0)
    assert cost.takes(4) == pytest.approx(29.0)
    assert cost.takes(8) == pytest.approx(60.0)
    assert 29.0 < cost.takes(6) < 29.0 + 2 * 8.0
    for _ in range(256):
        cost.observe(4, 0, 0, 29.0)
    assert cost.takes(8) < 40.0  # so long ago that it may be tried again


def test_a_forward_that_something_else_stopped_counts_for_little_and_a_slower_machine_is_believed() -> None:
    budget = Machine(30.0, 0.0, 1.0).budget()
    for turn in range(60):
        read = budget.room(4) if turn % 3 else 0
        budget.cost.observe(4, 0, read, 30.0 + read)
    before = budget.room(4)
    budget.cost.observe(4, 0, 0, 5000.0)
    assert budget.room(4) <= 2 * before
    assert budget.cost.takes(4) <= 1.5 * 30.0
    for _ in range(100):
        budget.cost.observe(4, 0, 0, 300.0)
    assert budget.cost.takes(4) == pytest.approx(300.0, rel=0.05)


def test_prompts_of_one_device_weigh_no_more_than_those_of_others() -> None:
    good = [("good", 1)]
    assert weight(good, {}) == 1
    assert weight(good, {"evil": 1}) == weight(good, {"evil": 40}) == 2
    assert weight([*good, ("evil", 1)], {"evil": 40, "new": 2}) == 4
    assert weight([], {"a": 5, "b": 2}) == 4
    # Alone its own sessions wait for one another.
    assert weight(good, {"good": 40}) == 41
    assert weight(good, {f"device {number}": 1 for number in range(16)}) == 17


# Prompts


@dataclass
class Machine:
    """Forwards that take so many ms: in any case, for each session that writes, and for each token that is read.

    Attributes:
        now: Seconds since its worker began.
    """

    fixed: float
    write: float
    read: float
    now: float = 0.0

    def alone(self, writing: int) -> float:
        return self.fixed + self.write * writing

    def budget(self, *, most: int = 128, target: float = 250.0) -> SlotBudget:
        """A budget that has timed some forwards, whose slots are as dear as prompts, as `Timings` has them."""
        cost = ForwardCost()
        times = [(1, 0), (1, 8), (4, 0), (4, 32)]
        cost.prime([(n, drafted, self.alone(n) + self.read * drafted) for n, drafted in times])
        return SlotBudget(cost, most=most, target=target)

    def step(
        self, budget: SlotBudget, unread: dict[tuple[str, int], int], writers: list[tuple[str, int]]
    ) -> float:
        """Ms of a forward; what it reads is taken from what is unread."""
        decided = budget.step(dict.fromkeys(writers, 0), unread, self.now).granted
        shares = budget.prompts(dict(unread), dict.fromkeys(decided, 1), self.now)
        for key, tokens in shares.items():
            assert 0 < tokens <= unread[key]
            unread[key] -= tokens
            if unread[key] <= 1:  # the last one decides
                del unread[key]
        tokens = sum(shares.values())
        ms = self.alone(len(decided)) + self.read * tokens
        budget.cost.observe(len(decided), 0, tokens, ms)
        self.now += ms / 1000
        return ms


MACHINES = st.builds(
    lambda fixed, write, read: Machine(fixed, fixed * write, fixed * read),
    st.floats(2.0, 5000.0),
    st.floats(0.0, 0.1),
    st.floats(0.001, 0.125),
)
"""From a GPU to a model that is far too large: 2 ms to 5 s a forward, a token read for 1/1000 to 1/8 of that."""
TARGETS = st.sampled_from((50.0, 250.0, 1000.0))


def test_a_budget_that_is_told_nothing_is_that_of_a_worker() -> None:
    """Settings state it anew, as they are read where nothing that computes is installed."""
    assert WorkerSettings().device_prefill == DEVICE_PREFILL


@given(MACHINES, TARGETS, st.integers(0, 8), st.integers(2, DEVICE_PREFILL))
def test_a_prompt_is_read_within_a_number_of_steps(
    machine: Machine, target: float, writing: int, prompt: int
) -> None:
    budget = machine.budget(target=target)
    unread, steps = {("new", 1): prompt}, 0
    plain = machine.alone(writing)
    more = STRETCH * plain if writing else max(target - plain, STRETCH * plain)
    while unread:
        ms = machine.step(budget, unread, [(f"writer {number}", 1) for number in range(writing)])
        assert ms <= 1.25 * max(plain + more, plain + LEAST * machine.read)
        steps += 1
    assert steps <= 2 + prompt / min(128, max(LEAST, more / machine.read))


@settings(max_examples=30)
@example(Machine(2.0, 2.0 * 0.00390625, 2.0 * 0.0625), 3, [42], 16)
@given(
    MACHINES, st.integers(1, 4), st.lists(st.integers(2, 8000), min_size=1, max_size=40), st.integers(0, 40)
)
def test_whatever_one_device_asks_for_others_lose_little(
    machine: Machine, honest: int, prompts: list[int], sessions: int
) -> None:
    """Its lead, and from there on its share of the time and the slots that hardly make a forward longer."""
    budget = machine.budget()
    unread = {("evil", number): tokens for number, tokens in enumerate(prompts * 20, 100)}
    writers = [(f"honest {number}", 1) for number in range(honest)]
    writers += [("evil", number) for number in range(sessions)]
    fair = machine.alone(honest + (sessions > 0))
    spent = [machine.step(budget, unread, writers) for _ in range(400)]
    lead = machine.read * (DEVICE_PREFILL + CHUNK)
    assert max(spent[20:]) <= max(1.15 * (1 + STRETCH) * fair, fair + CHUNK * machine.read)
    assert (
        sum(spent) <= (1 + GIVES + 1.1 * DEVICE_PREFILL_SHARE) * 400 * fair + 1.2 * lead
    )  # a step reads whole chunks
    if unread:
        read = sum(prompts * 20) - sum(unread.values())
        assert machine.read * read >= 0.9 * min(DEVICE_PREFILL_SHARE * sum(spent), machine.read * 100 * LEAST)


@given(MACHINES, st.integers(2, 1500))
def test_one_that_has_read_little_does_not_wait_behind_one_that_has_read_much(
    machine: Machine, prompt: int
) -> None:
    def steps(evil: int) -> int:
        budget = machine.budget()
        unread = {("evil", number): 400 for number in range(evil)}
        for _ in range(40):
            machine.step(budget, unread, [("writer", 1)])
        unread |= {("good", 1): prompt}
        count = 0
        while ("good", 1) in unread:
            machine.step(budget, unread, [("writer", 1)])
            count += 1
        return count

    assert steps(40) <= 1.3 * steps(0) + 3


@pytest.mark.parametrize("unread", [100, 400, 1500])
def test_a_prompt_is_read_however_many_devices_keep_beginning(unread: int) -> None:
    machine, writers = Machine(60.0, 0.0, 1.0), [("writer", 1)]
    budget = machine.budget()
    waiting = {("one", 1): unread}
    while ("one", 1) in waiting:
        newcomers = {(f"{machine.now}-{number}", 1): 90 for number in range(12)}
        one_first = waiting | newcomers
        machine.step(budget, one_first, writers)
        waiting = {key: tokens for key, tokens in one_first.items() if key == ("one", 1)}
        assert machine.now < 60


def test_those_that_read_as_much_do_not_slow_each_other() -> None:
    machine = Machine(30.0, 0.0, 1.0)
    budget = machine.budget()
    unread = {(edge, 1): 1000 for edge in "abc"}
    while unread:
        assert machine.step(budget, unread, [("a", 2), ("b", 2), ("c", 2)]) > 30.0
    assert machine.now < 1.2 * 3000 / 24 * 0.054


def test_a_device_that_reads_alone_has_all_and_owes_nothing_but_its_lead() -> None:
    machine = Machine(30.0, 0.0, 1.0)
    budget = machine.budget()
    unread = {("one", 1): 4000}
    while unread and unread["one", 1] > 100:
        assert machine.step(budget, unread, []) == pytest.approx(158.0, abs=1.0)
    unread["one", 1] = 400
    spent = [machine.step(budget, unread, [("good", 1)]) for _ in range(40)]
    assert budget.slowed in {0, CHUNK}
    read = sum(spent) - 40 * 30.0
    assert read == pytest.approx(DEVICE_PREFILL_SHARE * sum(spent), abs=CHUNK)


def test_where_others_are_away_a_lone_reader_leaves_room_for_them() -> None:
    machine = Machine(30.0, 0.0, 1.0)
    budget = machine.budget()
    machine.step(budget, {}, [("good", 1)])
    unread = {("evil", 1): 4000}
    spent = [machine.step(budget, unread, []) for _ in range(8)]
    assert spent[0] == 158.0
    assert spent[-1] <= (1 + STRETCH) * 31.0


def test_many_that_begin_beside_few_share_their_time() -> None:
    machine = Machine(30.0, 0.0, 1.0)
    budget = machine.budget()
    unread = {(f"new {number}", 1): 16 for number in range(8)}
    assert machine.step(budget, unread, [("writer", 1)]) == 158.0


def test_without_a_bound_on_time_all_is_read() -> None:
    budget = SlotBudget(ForwardCost(), most=1000)
    budget.cost.observe(1, 0, 10, 50.0)
    assert budget.prompts({("a", 1): 600, ("a", 2): 300}, {("a", 3): 1}, 0.0) == {
        ("a", 1): 600,
        ("a", 2): 300,
    }
    assert budget.room(4, 4) == 1000
    assert SlotBudget(ForwardCost(), most=100, target=250.0).room(1) == 100  # nothing is known yet


@given(st.integers(0, 400), st.lists(st.integers(2, 200), max_size=20))
def test_a_budget_is_divided_in_order_and_not_wasted(budget: int, unread: list[int]) -> None:
    wanted = {str(number): most for number, most in enumerate(unread)}
    shares = divide(budget, wanted)
    assert list(shares) == list(wanted)[: len(shares)]
    assert all(0 < share <= wanted[key] for key, share in shares.items())
    spent = sum(shares.values())
    assert spent <= budget
    assert spent == sum(unread) or budget - spent < 2
    if len(unread) * CHUNK <= budget:
        least = budget // max(1, len(unread))
        assert all(shares[key] >= min(most, least) for key, most in wanted.items())


def test_counters_are_kept_for_as_long_as_they_matter() -> None:
    budget = Machine(30.0, 0.0, 1.0).budget(target=inf)
    for number in range(1000):
        budget.prompts({(f"d{number}", 1): 50, ("other", 1): 50}, {}, float(number))
    assert len(budget._read) < 30
