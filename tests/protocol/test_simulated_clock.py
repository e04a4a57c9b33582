"""Simulated time: what is due happens in order, and an alarm rings once at the earliest time asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lab.simulator.clock import Alarm, SimulatedClock


@given(st.lists(st.floats(0, 100), max_size=20))
def test_what_is_due_happens_in_the_order_of_its_time_and_then_of_asking(delays: list[float]) -> None:
    clock, seen = SimulatedClock(), list[tuple[float, int]]()
    for number, delay in enumerate(delays):
        clock.at(delay, lambda number=number: seen.append((clock.now, number)))  # type: ignore[misc]
    while clock.step():
        pass
    assert seen == sorted((delay, number) for number, delay in enumerate(delays))


@given(st.lists(st.floats(0, 100) | st.none(), min_size=1, max_size=20))
def test_an_alarm_rings_once_at_the_earliest_time_that_was_asked_for(times: list[float | None]) -> None:
    clock, rang = SimulatedClock(), list[float]()
    alarm = Alarm(clock, lambda: rang.append(clock.now))
    for due in times:
        alarm.by(due)
    while clock.step():
        pass
    assert rang == sorted(due for due in times if due is not None)[:1]
    alarm.by(clock.now - 1.0)
    clock.step()
    assert len(rang) == 1 + any(due is not None for due in times)
