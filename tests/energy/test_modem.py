"""The modem's seconds are those of a clock that ticks through every moment of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.energy.model import Modem, RadioPower

TICKS = 1024
"""In a second: a power of two, so that no sum of times is rounded."""

radios = st.builds(
    lambda promotion, hold, tail: RadioPower(
        promotion_s=promotion / TICKS, hold_s=hold / TICKS, tail_s=tail / TICKS
    ),
    st.integers(0, 60),
    st.integers(0, 40),
    st.integers(0, 200),
)
times = st.lists(st.integers(0, 1000), max_size=25).map(sorted)


def probes(radio: RadioPower) -> list[RadioPower]:
    """Radios that draw a watt while it wakes, while it is active, and in its tail: their joules are its seconds."""
    return [replace(radio, **{watts: 1.0}) for watts in ("promotion_w", "active_w", "tail_w")]


def activity(radio: RadioPower, packets: list[float]) -> list[float]:
    """Seconds of waking, of being active, and of the tail."""
    seconds = []
    for probe in probes(radio):
        modem = Modem(probe)
        for at in packets:
            modem.packet(at)
        seconds.append(modem.joules)
    return seconds


def ticked(radio: RadioPower, packets: list[int]) -> list[float]:
    """By going through all ticks, state by state."""
    promotion, hold, tail = (round(TICKS * each) for each in (radio.promotion_s, radio.hold_s, radio.tail_s))
    spent, waking_left, heard = {"waking": 0, "active": 0, "tail": 0}, 0, -(10**6)
    for now in range(1500):
        asleep = not waking_left and now - heard >= max(hold, tail)
        if now in packets and asleep:
            waking_left = promotion
            heard = now + promotion
        elif now in packets and not waking_left:
            heard = now
        if waking_left:
            waking_left -= 1
            spent["waking"] += 1
        elif now - heard < hold:
            spent["active"] += 1
        elif now - heard < max(hold, tail):
            spent["tail"] += 1
    return [ticks / TICKS for ticks in spent.values()]


@given(radios, times)
def test_as_ticked_through(radio: RadioPower, packets: list[int]) -> None:
    if radio.promotion_s == 0 and radio.awake_s == 0:
        packets = sorted(set(packets))  # it sleeps at once: of packets at one time the tick sees one
    found = activity(radio, [at / TICKS for at in packets])
    assert found == pytest.approx(ticked(radio, packets), abs=1e-9)
