"""Who shares a forward."""

from __future__ import annotations

from collections import Counter
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.scheduling.costs import MeasuredCost
from flexspec_mq.scheduling.fair_shares import GIVES, NEWCOMER, WAITS, Presence, sharing, weight
from flexspec_mq.scheduling.prefill_budget import PrefillBudget
from flexspec_mq.scheduling.prefill_shares import PrefillUsage

SESSIONS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 30)), unique=True, min_size=1, max_size=60
)


def dear(sessions: int) -> float:
    """As on a processor: much for each session."""
    return 20.0 + 4.0 * sessions


def cheap(sessions: int) -> float:
    """As on an accelerator."""
    return 20.0 + 0.01 * sessions


@given(SESSIONS)
def test_where_rows_are_cheap_all_ride_along(waiting: list[tuple[str, int]]) -> None:
    assert sorted(sharing(waiting, cheap, 1000)) == sorted(waiting)


@given(SESSIONS, st.floats(0.0, 50.0), st.floats(0.01, 50.0))
def test_every_device_has_a_row_and_those_with_few_sessions_lose_little(
    waiting: list[tuple[str, int]], base: float, row: float
) -> None:
    def ms(sessions: int) -> float:
        return base + row * sessions

    chosen = sharing(waiting, ms, 1000)
    has, got = Counter(edge for edge, _ in waiting), Counter(edge for edge, _ in chosen)
    fewest = min(has.values())
    assert all(got[edge] >= fewest for edge in has)
    if len(has) > 1:
        assert ms(len(chosen)) <= (1 + GIVES) * ms(fewest * len(has)) + 1e-9
    else:
        assert len(chosen) == len(waiting)


def test_prompts_of_one_device_weigh_no_more_than_those_of_others() -> None:
    good = [("good", 1)]
    assert weight(good, {}) == 1
    assert weight(good, {"evil": 1}) == weight(good, {"evil": 40}) == 2
    assert weight([*good, ("evil", 1)], {"evil": 40, "new": 2}) == 4
    assert weight([], {"a": 5, "b": 2}) == 4
    # Alone its own sessions wait for one another.
    assert weight(good, {"good": 40}) == 41
    crowd = {f"device {number}": 1 for number in range(16)}
    assert weight(good, crowd) == 17


def test_a_prompt_that_is_read_counts_as_a_session_that_waits() -> None:
    waiting = [("evil", session) for session in range(60)]
    assert len(sharing(waiting, dear, 64, beside={"good"})) == 1
    assert len(sharing(waiting, dear, 64, beside={"evil"})) == 60


def test_who_may_be_back_soon_is_thought_of() -> None:
    waiting = [("evil", session) for session in range(60)]
    chosen = sharing(waiting, dear, 64, away=0.1)
    assert dear(len(chosen)) <= (1 + WAITS) * dear(1) < dear(len(chosen) + 1)
    chosen = sharing(waiting, dear, 64, away=10.0)
    assert dear(len(chosen)) <= NEWCOMER < dear(len(chosen) + 1)
    assert len(sharing(waiting, dear, 64, away=60.0)) == 60


def test_it_is_known_how_long_others_are_away() -> None:
    presence = Presence()
    presence.observe({"a", "b"}, 1.0)
    presence.observe({"a"}, 2.0)
    assert presence.since_others({"a"}, 3.0) == 2.0
    assert presence.since_others({"b"}, 3.0) == 1.0
    assert presence.since_others({"a", "b"}, 3.0) == inf
    assert presence.since_others({"a"}, 32.0) == inf


def test_reading_is_remembered_for_a_while() -> None:
    usage = PrefillUsage()
    usage.add("a", 100, 0.0)
    usage.add("a", 100, 0.0)
    assert usage.tokens("a", 0.0) == 200
    assert usage.tokens("b", 0.0) == 0
    assert 70 < usage.tokens("a", 10.0) < 75
    for number in range(10_000):
        usage.add(f"d{number}", 1, 20.0)
    assert usage.tokens("a", 20.0) == 0


def test_one_forward_in_sixteen_leaves_out_what_rides_along() -> None:
    waiting = [("many", session) for session in range(9)] + [("one", 1)]
    lengths = [len(sharing(waiting, cheap, 64, turn=turn)) for turn in range(1, 33)]
    assert lengths.count(2) == 2
    assert lengths.count(10) == 30


def test_what_was_measured_counts_and_not_a_line_through_it() -> None:
    cost = MeasuredCost()
    assert cost.predict(4, 1.0) is None
    for _ in range(20):
        cost.observe(4, 29.0)
        cost.observe(8, 60.0)
    assert cost.predict(4, 1.0) == 29.0
    assert cost.predict(6, 1.0) == 31.0
    assert cost.predict(8, 1.0) == 60.0
    assert cost.predict(9, 2.0) == 62.0
    assert cost.predict(3, 1.0) is None
    for _ in range(300):
        cost.observe(4, 29.0)
    assert cost.predict(8, 1.0) == 33.0  # so long ago that it may be tried again


@given(st.integers(1, 40), st.floats(5.0, 50.0), st.floats(0.1, 8.0))
def test_what_rides_along_is_found_by_measuring(many: int, base: float, row: float) -> None:
    """Rows are dearer, or cheaper, than they are first taken to be."""

    def takes(sessions: int) -> float:
        return base + row * 4 * -(-sessions // 4)  # in blocks of four

    cost = MeasuredCost()
    waiting = [("many", session) for session in range(many)] + [(f"one{n}", 1) for n in range(3)]
    spent = []
    for turn in range(1, 200):
        chosen = sharing(waiting, lambda sessions: cost.predict(sessions, 0.03 * base) or 0.0, 64, turn=turn)
        spent.append(takes(len(chosen)))
        cost.observe(len(chosen), spent[-1])
    assert sum(spent[100:]) <= (1 + GIVES) * 99 * takes(4) + 2 * row * 40


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_device_that_has_had_much_read_adds_its_share(share: float) -> None:
    budget = PrefillBudget(most=128)
    for _ in range(10):
        budget.observe(4, 0, 30.0)
    added = 0.0
    for _ in range(400):
        read = budget.spare(4, share)
        assert read in {0, 32}
        # In a block, whatever is read of it, and dearer than it was taken to be.
        budget.observe(4, read, 30.0 + 45.0 * (read > 0))
        added += 45.0 * (read > 0)
    assert 0.8 * share <= added / (400 * 30.0) <= 1.1 * share
    assert 8 <= budget.within(1.8) <= 128
    assert budget.beside(4, 2.0) > budget.beside(4, 1.0) > 0


@pytest.mark.parametrize("stall", [60.0, 120.0, 1000.0])
def test_a_forward_that_something_else_stopped_gives_nobody_more(stall: float) -> None:
    budget = PrefillBudget(most=128)
    for _ in range(10):
        budget.observe(4, 0, 30.0)
    budget.observe(4, 0, stall)
    pieces = 0
    for _ in range(40):
        read = budget.spare(4, 0.15)
        pieces += read > 0
        budget.observe(4, read, 30.0 + 45.0 * (read > 0))
    assert 45.0 * pieces / (40 * 30.0) <= 1.5 * 0.15


def test_a_forward_that_takes_longer_for_good_is_believed() -> None:
    budget = PrefillBudget(most=128)
    for ms in [30.0] * 10 + [90.0] * 12:
        budget.observe(4, 0, ms)
    budget.observe(4, 32, 135.0)
    assert budget.beside(4, 1.0) == pytest.approx(90.0 / 45.0 * 32, rel=0.1)


@given(st.floats(20.0, 400.0), st.floats(0.3, 3.0), st.integers(1, 5), st.floats(0.0, 10.0))
def test_a_lone_reader_reads_pieces_of_some_size_however_long_a_forward_takes(
    base: float, each: float, writing: int, row: float
) -> None:
    """Time of a forward without any reading is a guess, from forwards in which sessions wrote."""
    budget = PrefillBudget(most=128)
    for turn in range(12):
        rows = 1 + turn % writing
        budget.observe(rows, 32, base + row * rows + each * 32)
        budget.observe(rows, 0, base + row * rows)
    light = base + 8 * each
    budget.observe(0, 8, light)
    may = min(max(250.0, 1.8 * light), 2.5 * light)
    wanted = max(8.0, min(128.0, (may - base) / each))
    sizes = []
    for _ in range(64):
        sizes.append(min(budget.budget(0), budget.within(2.5)))
        budget.observe(0, sizes[-1], base + each * sizes[-1])
    assert all(size <= wanted + 1 for size in sizes)
    # Three to see what forwards take, and one in 32 to see it again.
    assert all(size >= 0.9 * wanted - 1 for size in sizes[4:] if size > 8)
    assert sizes[4:].count(8) <= 2 or wanted < 9


def test_after_texts_of_one_token_a_forward_a_prompt_is_read_in_large_pieces() -> None:
    """Time of one token does not tell that of a forward which feeds none: all might be the token's."""
    budget = PrefillBudget(most=128)
    forwards = 0
    for _ in range(3):
        unread = 450
        while unread:
            tokens = min(unread, budget.budget(0), budget.within(2.5))
            budget.observe(0, tokens, 93.0 + 1.25 * tokens)
            unread -= tokens
            forwards += 1
        for _ in range(40):
            budget.observe(1, 0, 95.0)
    assert forwards <= 3 * (450 // 113 + 1) + 4
