"""Lines that others can bring about are few."""

from __future__ import annotations

from flexspec_mq.daemon.log_throttle import EVERY, LogThrottle


def test_the_first_line_comes_at_once_and_then_one_a_minute_with_all_that_happened() -> None:
    throttle = LogThrottle()
    told = [throttle.due("evil", "busy", 0.01 * number) for number in range(2000)]
    assert told == [1, *[0] * 1999]
    assert throttle.due("evil", "busy", EVERY) == 2000
    assert throttle.due("evil", "busy", EVERY + 1.0) == 0


def test_each_one_and_each_kind_has_lines_of_its_own() -> None:
    throttle = LogThrottle()
    assert throttle.due("evil", "busy", 0.0) == 1
    assert throttle.due("evil", "malformed", 0.0) == 1
    assert throttle.due("good", "busy", 0.0) == 1


def test_it_stays_small() -> None:
    throttle = LogThrottle()
    for number in range(5000):
        assert throttle.due(f"d{number}", "busy", 0.0) == 1
    assert throttle.due("d4999", "busy", 0.0) == 0
    assert throttle.due("d0", "busy", 0.0) == 1  # forgotten meanwhile
