"""Joules from counts: linear, so that texts add up and no count makes a text cheaper."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.energy.model import DevicePower, in_words, joules, per_hundred
from flexspec_mq.energy.radio import RadioPower
from flexspec_mq.energy.text import ModelledEnergy

some = st.floats(0, 1e4)
watts = st.floats(0, 20)
counted = st.fixed_dictionaries(
    {"seconds": some, "core_s": some, "bytes_up": st.integers(0, 10**7), "bytes_down": st.integers(0, 10**7)}
)
devices = st.builds(DevicePower, idle_w=watts, core_w=watts)
radios = st.builds(
    RadioPower,
    idle_w=watts,
    promotion_w=watts,
    active_w=watts,
    tail_w=watts,
    up_j=st.floats(0, 1e-5),
    down_j=st.floats(0, 1e-5),
)
DEVICE = DevicePower(idle_w=2.0, core_w=1.5)
RADIO = RadioPower(
    idle_w=0.5,
    promotion_s=0.25,
    promotion_w=4.0,
    hold_s=0.1,
    active_w=3.0,
    tail_s=10.0,
    tail_w=1.0,
    up_j=1e-3,
    down_j=1e-4,
)


def test_each_part_by_hand() -> None:
    found = joules(DEVICE, RADIO, 31.0, seconds=40.0, core_s=8.0, bytes_up=1000, bytes_down=10_000)
    # Idle, drafting, awake, and bytes.
    assert found == pytest.approx(100.0 + 12.0 + 31.0 + 2.0)


@given(devices, radios, some, some, counted, counted)
def test_what_two_texts_take_is_the_sum(
    device: DevicePower,
    radio: RadioPower,
    awake: float,
    other: float,
    counts: dict[str, Any],
    more: dict[str, Any],
) -> None:
    both = joules(device, radio, awake + other, **{name: counts[name] + more[name] for name in counts})
    apart = joules(device, radio, awake, **counts) + joules(device, radio, other, **more)
    assert both == pytest.approx(apart)


@given(devices, radios, some, counted, st.data())
def test_more_of_anything_never_costs_less(
    device: DevicePower, radio: RadioPower, awake: float, counts: dict[str, Any], data: st.DataObject
) -> None:
    before = joules(device, radio, awake, **counts)
    for name, value in counts.items():
        more = {**counts, name: value + data.draw(st.integers(0, 100))}
        assert joules(device, radio, awake, **more) >= before
    assert joules(device, radio, awake + data.draw(st.floats(0, 100)), **counts) >= before


def expected(seconds: float, messages: float) -> float:
    energy = ModelledEnergy("mine", DEVICE, RADIO, 1)
    return energy.expected(seconds=seconds, drafting_s=0.0, messages=messages, bytes_up=0.0, bytes_down=0.0)


def test_a_modem_that_sleeps_between_packets_pays_for_waking() -> None:
    awake = expected(1.0, 2.0)
    assert awake == pytest.approx(2.5 + 2 * 0.1 * 3.0 + 2 * 0.4 * 1.0)
    asleep = expected(60.0, 1.0)
    assert asleep == pytest.approx(60 * 2.5 + 0.25 * 4.0 + 0.1 * 3.0 + 9.9)


@given(st.floats(0.01, 30), st.floats(0.01, 30))
def test_a_longer_round_costs_more(seconds: float, more: float) -> None:
    assert expected(seconds + more, 2.0) > expected(seconds, 2.0)


def test_per_hundred_tokens() -> None:
    assert per_hundred(3.0, 60) == 5.0
    assert per_hundred(3.0, 0) is None
    assert in_words(3.0, 5.0, "measured: rapl") == "3.0 J, 5.0 J for 100 tokens (measured: rapl)"
    assert in_words(3.0, None, "measured: rapl") == "3.0 J (measured: rapl)"
