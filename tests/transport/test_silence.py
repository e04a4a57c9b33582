"""When a silence is too long, whatever was sent and came."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flexspec_mq.transport.silence import LinkSilence
from flexspec_mq.waiting import ANSWER as LEAST

MOST = 5 * LEAST
GAPS = st.floats(0.001, 20.0)


class SilenceMachine(RuleBasedStateMachine):
    """A connection whose broker answers some of what is asked, in any order, beside other messages."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.silence = LinkSilence(0.0)
        self.owed: list[tuple[int, float]] = []
        self.unheard: list[float] = []
        self.carried = 0.0
        self.given_up = 0
        self.is_up = False
        self.pinged: float | None = None
        self.heard = 0.0

    @rule(gap=GAPS)
    def time_passes(self, gap: float) -> None:
        self.now += gap

    @rule(size=st.integers(1, 100_000))
    def asks(self, size: int) -> None:
        self.silence.sent_for_ack(size, self.now)
        self.owed.append((size, self.now))

    @rule(size=st.integers(1, 100_000))
    def tells(self, size: int) -> None:
        self.silence.sent(size, self.now)
        self.unheard.append(self.now)
        self.carried = max(self.carried, self.now) + size / 8_000

    @rule()
    def is_made(self) -> None:
        self.silence.up()
        self.is_up = True

    @rule(over=st.booleans())
    def is_replaced(self, over: bool) -> None:
        if over:
            self.silence.given_up()
            self.given_up = min(4, self.given_up + 1)
        self.silence.begin(self.now)
        self.owed, self.unheard, self.pinged, self.is_up = [], [], None, False
        self.heard = self.carried = self.now

    @precondition(lambda self: self.now >= self.silence.ping_at)
    @rule()
    def pings(self) -> None:
        self.silence.pinged(self.now)
        self.pinged = self.now

    @rule(data=st.data())
    def hears(self, data: st.DataObject) -> None:
        self.silence.heard(self.now)
        self.heard, self.unheard, self.pinged = self.now, [], None
        for _ in range(data.draw(st.integers(0, min(3, len(self.owed))))):
            size, at = self.owed.pop(data.draw(st.integers(0, len(self.owed) - 1)))
            self.silence.acknowledged(size, self.now - at)
            if self.is_up:
                self.given_up = 0

    @invariant()
    def it_ends_only_where_an_answer_is_owed(self) -> None:
        asked = [at for _, at in self.owed] + ([] if self.pinged is None else [self.pinged])
        assert (self.silence.over_at < inf) == bool(asked)
        if asked:
            silent_from = max(self.heard, min(asked))
            waits = self.silence.timeout + sum(size for size, _ in self.owed) / 8_000
            assert self.silence.over_at == pytest.approx(max(silent_from, self.carried) + waits)

    @invariant()
    def it_asks_only_after_what_nobody_acknowledges(self) -> None:
        if self.owed or self.pinged is not None or not self.unheard:
            assert self.silence.ping_at == inf
        else:
            assert self.silence.ping_at == max(self.unheard[0], self.heard + self.silence.timeout)

    @invariant()
    def the_timeout_is_bounded(self) -> None:
        assert LEAST <= self.silence.timeout / 2.0**self.given_up <= MOST


TestSilence = SilenceMachine.TestCase


@given(trip=st.floats(0.001, 5.0), times=st.integers(20, 60))
def test_the_timeout_follows_what_acknowledgements_take(trip: float, times: int) -> None:
    silence = LinkSilence(0.0)
    for _ in range(times):
        silence.measured(trip)
    # Another connection takes five round trips until it has answered anything; this one may take as long.
    assert silence.timeout >= min(MOST, 5 * trip)
    if trip <= LEAST / 10:
        assert silence.timeout == LEAST


def test_an_outage_is_no_round_trip() -> None:
    silence = LinkSilence(0.0)
    for _ in range(20):
        silence.measured(0.05)
    silence.measured(60.0)
    after = silence.timeout
    for _ in range(8):
        silence.measured(0.05)
    assert after < MOST
    assert silence.timeout < 2 * LEAST


def test_each_connection_that_is_given_up_has_the_next_one_wait_twice_as_long() -> None:
    """Where the broker takes connections at once and messages slowly: they would be replaced for ever."""
    silence = LinkSilence(0.0)
    waits = []
    for _ in range(6):
        silence.begin(0.0)
        silence.measured(0.01)
        silence.sent_for_ack(100, 0.0)
        silence.heard(0.01)
        silence.acknowledged(100, 0.01)  # the birth
        silence.up()
        waits.append(silence.timeout)
        silence.given_up()
    assert waits == [LEAST * factor for factor in (1, 2, 4, 8, 16, 16)]
    silence.begin(0.0)
    silence.up()
    silence.sent_for_ack(100, 0.0)
    silence.heard(3.0)
    silence.acknowledged(100, 3.0)
    assert 3.0 < silence.timeout <= MOST
