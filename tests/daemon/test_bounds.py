"""Bounds on log lines that others can cause, on maps, and on the objects that garbage collection visits."""

import gc
import weakref
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flexspec_mq.daemon.expiring import EVERY, ExpiringMap, LogThrottle
from flexspec_mq.daemon.main import spare_what_is_loaded


def test_lines_about_one_thing_come_at_once_and_then_once_a_minute_with_all_that_happened() -> None:
    throttle = LogThrottle()
    due = [throttle.due("evil", "busy", 0.01 * number) for number in range(2000)]
    assert due == [1, *[0] * 1999]
    assert throttle.due("evil", "malformed", 0.0) == throttle.due("good", "busy", 0.0) == 1
    assert throttle.due("evil", "busy", EVERY) == 2000
    assert throttle.due("evil", "busy", EVERY + 1.0) == 0


def test_a_throttle_stays_small() -> None:
    throttle = LogThrottle()
    for number in range(5000):
        assert throttle.due(f"d{number}", "busy", 0.0) == 1
    assert throttle.due("d4999", "busy", 0.0) == 0
    assert throttle.due("d0", "busy", 0.0) == 1  # forgotten meanwhile


MOST, HEAVIEST, TTL = 4, 20.0, 10.0
KEYS = st.integers(0, 6)


class ExpiringMachine(RuleBasedStateMachine):
    """`model` holds (key, value, expiry) in the order of insertion."""

    def __init__(self) -> None:
        super().__init__()
        self.map: ExpiringMap[int, int] = ExpiringMap(
            most=MOST, ttl=TTL, most_weight=HEAVIEST, weigh=lambda value: value
        )
        self.model: list[tuple[int, int, float]] = []
        self.now = 0.0

    @rule(key=KEYS, value=st.integers(0, 25), ttl=st.none() | st.sampled_from((1.0, 30.0, inf)))
    def put(self, key: int, value: int, ttl: float | None) -> None:
        self.model = [entry for entry in self.model if entry[0] != key]
        self.model.append((key, value, self.now + (TTL if ttl is None else ttl)))
        gone = []
        while len(self.model) > MOST or sum(entry[1] for entry in self.model) > HEAVIEST:
            gone.append(self.model.pop(0)[:2])
        assert self.map.put(key, value, self.now, ttl) == gone

    @rule(key=KEYS)
    def get(self, key: int) -> None:
        alive = [entry[1] for entry in self.model if entry[0] == key and entry[2] > self.now]
        assert self.map.get(key, self.now) == (alive[0] if alive else None)

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        values = [entry[1] for entry in self.model if entry[0] == key]
        self.model = [entry for entry in self.model if entry[0] != key]
        assert self.map.pop(key) == (values[0] if values else None)

    @rule(seconds=st.floats(0.0, 12.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        gone = []
        while self.model and self.model[0][2] <= self.now:
            gone.append(self.model.pop(0)[:2])
        assert self.map.expire(self.now) == gone

    @invariant()
    def agrees(self) -> None:
        assert list(self.map.items()) == [entry[:2] for entry in self.model]
        assert list(self.map) == [entry[0] for entry in self.model]
        assert self.map.alive(self.now) == [entry for entry in self.model if entry[2] > self.now]
        assert len(self.map) == len(self.model)
        first = self.model[0][2] if self.model else inf
        assert self.map.next_expiry == (None if first == inf else first)
        assert all((key in self.map) == any(entry[0] == key for entry in self.model) for key in range(7))


TestExpiringMap = ExpiringMachine.TestCase
TestExpiringMap.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Ring:
    """An object that holds itself, as only the collector frees."""

    def __init__(self) -> None:
        self.ring = self


def test_only_what_comes_later_is_looked_through() -> None:
    stays = Ring()
    garbage = weakref.ref(Ring())
    spare_what_is_loaded()
    try:
        assert garbage() is None  # what was garbage by then is no burden for ever
        kept = weakref.ref(stays)
        assert gc.get_freeze_count() > 1000
        assert not any(tracked is stays for tracked in gc.get_objects())
        later = weakref.ref(Ring())
        gc.collect()
        assert later() is None
        assert kept() is stays
    finally:
        gc.unfreeze()
