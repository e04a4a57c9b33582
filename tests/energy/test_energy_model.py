"""Joules from counts: linear, so that texts add up and no count makes a text cheaper."""

from __future__ import annotations

from dataclasses import astuple, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.energy.model import Counts, DevicePower, Energy, energy, in_words, per_hundred, round_energy
from flexspec_mq.energy.radio import RadioActivity, RadioPower

some = st.floats(0, 1e4)
watts = st.floats(0, 20)
activities = st.builds(
    RadioActivity, wake_ups=st.integers(0, 50), promotion_s=some, active_s=some, tail_s=some
)
counted = st.builds(
    Counts,
    seconds=some,
    drafting_s=some,
    radio=activities,
    bytes_up=st.integers(0, 10**7),
    bytes_down=st.integers(0, 10**7),
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
    did = RadioActivity(wake_ups=2, promotion_s=0.5, active_s=3.0, tail_s=20.0)
    counts = Counts(seconds=40.0, drafting_s=8.0, radio=did, bytes_up=1000, bytes_down=10_000)
    found = energy(DEVICE, RADIO, counts)
    assert found == Energy(idle_j=100.0, compute_j=12.0, radio_active_j=13.0, radio_tail_j=20.0)
    assert found.total_j == 145.0


@given(devices, radios)
def test_nothing_costs_nothing(device: DevicePower, radio: RadioPower) -> None:
    assert energy(device, radio, Counts()) == Energy()


@given(devices, radios, counted, counted)
def test_what_two_texts_take_is_the_sum(
    device: DevicePower, radio: RadioPower, one: Counts, other: Counts
) -> None:
    both = energy(device, radio, one + other)
    apart = energy(device, radio, one) + energy(device, radio, other)
    assert astuple(both) == pytest.approx(astuple(apart))
    assert both.total_j == pytest.approx(apart.total_j)


@given(devices, radios, counted, st.data())
def test_more_of_anything_never_costs_less(
    device: DevicePower, radio: RadioPower, counts: Counts, data: st.DataObject
) -> None:
    before = energy(device, radio, counts).total_j
    for name in (field.name for field in fields(Counts) if field.name != "radio"):
        more: Any = getattr(counts, name) + data.draw(st.integers(0, 100))
        assert energy(device, radio, replace(counts, **{name: more})).total_j >= before
    for name in ("promotion_s", "active_s", "tail_s"):
        longer: Any = {name: getattr(counts.radio, name) + data.draw(st.floats(0, 100))}
        assert energy(device, radio, replace(counts, radio=replace(counts.radio, **longer))).total_j >= before


def test_a_round_while_the_modem_stays_awake() -> None:
    found = round_energy(DEVICE, RADIO, seconds=1.0, drafting_s=0.2, bytes_up=100, bytes_down=100, packets=2)
    assert found.idle_j == 2.5
    assert found.compute_j == pytest.approx(0.3)
    assert found.radio_active_j == pytest.approx(2 * 0.1 * 3.0 + 0.1 + 0.01)
    assert found.radio_tail_j == pytest.approx(2 * 0.4 * 1.0)


def test_a_round_so_slow_that_the_modem_sleeps_pays_for_waking_it() -> None:
    found = round_energy(DEVICE, RADIO, seconds=60.0, drafting_s=0.0, bytes_up=0, bytes_down=0, packets=1)
    assert found.radio_active_j == pytest.approx(0.25 * 4.0 + 0.1 * 3.0)
    assert found.radio_tail_j == pytest.approx(9.9)


@given(st.floats(0.01, 30), st.floats(0.01, 30))
def test_a_longer_round_costs_more(seconds: float, more: float) -> None:
    def of(length: float) -> float:
        return round_energy(DEVICE, RADIO, seconds=length, drafting_s=0.1, bytes_up=1, bytes_down=1).total_j

    assert of(seconds + more) > of(seconds)


def test_per_hundred_tokens() -> None:
    assert per_hundred(3.0, 60) == 5.0
    assert per_hundred(3.0, 0) is None
    assert in_words(3.0, 5.0, "measured: rapl") == "3.0 J, 5.0 J for 100 tokens (measured: rapl)"
    assert in_words(3.0, None, "measured: rapl") == "3.0 J (measured: rapl)"
