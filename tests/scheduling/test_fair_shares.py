"""Who shares a forward."""

from __future__ import annotations

from collections import Counter
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.scheduling.fair_shares import GIVES, NEWCOMER, WAITS, Presence, ReadingDebts, sharing

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


def test_one_device_alone_has_all_rows() -> None:
    waiting = [("a", session) for session in range(60)]
    assert sharing(waiting, dear, 64) == waiting
    assert sharing(waiting, dear, 16) == waiting[:16]


def test_sixty_sessions_of_one_device_do_not_slow_down_three_of_others() -> None:
    waiting = [("evil", session) for session in range(60)] + [(f"good{n}", 1) for n in range(3)]
    chosen = sharing(waiting, dear, 64)
    assert set(waiting[60:]) < set(chosen)
    assert dear(len(chosen)) <= 1.1 * dear(4)


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


def test_while_nothing_is_known_of_the_time_all_go() -> None:
    waiting = [("a", session) for session in range(9)] + [("b", 1)]
    assert len(sharing(waiting, lambda _: 0.0, 64)) == 10


def test_it_is_known_how_long_others_are_away() -> None:
    presence = Presence()
    presence.here({"a", "b"}, 1.0)
    presence.here({"a"}, 2.0)
    assert presence.since_others({"a"}, 3.0) == 2.0
    assert presence.since_others({"b"}, 3.0) == 1.0
    assert presence.since_others({"a", "b"}, 3.0) == inf
    assert presence.since_others({"a"}, 32.0) == inf


def test_reading_is_remembered_for_a_while() -> None:
    debts = ReadingDebts()
    debts.add("a", 100, 0.0)
    debts.add("a", 100, 0.0)
    assert debts.of("a", 0.0) == 200
    assert debts.of("b", 0.0) == 0
    assert 70 < debts.of("a", 10.0) < 75
    for number in range(10_000):
        debts.add(f"d{number}", 1, 20.0)
    assert debts.of("a", 20.0) == 0
