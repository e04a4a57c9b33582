"""Powers of a device, from readings of a meter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.energy.meters import DrawFit
from flexspec_mq.energy.model import DevicePower
from flexspec_mq.energy.presets import built_in
from flexspec_mq.energy.radio import RadioPower
from flexspec_mq.energy.text import ModelledEnergy


@given(st.floats(0.5, 20.0), st.floats(0.5, 10.0), st.integers(0, 99))
def test_both_powers_are_found(idle: float, drafting: float, seed: int) -> None:
    rng, fit = random.Random(seed), DrawFit()
    for _ in range(400):
        seconds = rng.uniform(0.1, 1.0)
        busy = seconds * rng.random()
        fit.saw(seconds, busy, idle * seconds + drafting * busy)
    assert fit.watts == pytest.approx((idle, drafting), abs=0.05 * (idle + drafting))


def test_before_drafts_were_seen_a_drafter_doubles_what_is_drawn() -> None:
    fit = DrawFit()
    assert fit.watts is None
    for _ in range(50):
        fit.saw(0.5, 0.0, 2.0)
    assert fit.watts == pytest.approx((4.0, 4.0))


def test_a_gauge_that_moves_in_steps_is_followed() -> None:
    fit, drawn, shown = DrawFit(), 0.0, 0.0
    for _ in range(2000):
        drawn += 0.1 * 5.0
        step = 36.0 * (drawn // 36.0)
        fit.saw(0.1, 0.0, step - shown)
        shown = step
    assert fit.watts is not None
    assert fit.watts[0] == pytest.approx(5.0, rel=0.1)


TOKEN = {"seconds": 0.05, "drafting_s": 0.02, "messages": 0.75, "bytes_up": 80.0, "bytes_down": 140.0}


def test_a_token_by_hand() -> None:
    device = DevicePower(idle_w=2.0, core_w=3.0)
    radio = RadioPower(hold_s=0.01, active_w=4.0, tail_s=5.0, tail_w=0.5, up_j=0.001, down_j=0.002)
    found = ModelledEnergy("mine", device, radio, cores=2).expected(**TOKEN)
    # 50 ms idle, 40 ms of a core, 0.75 packets of which each is awake for 10 ms, the rest in the tail, and bytes.
    assert found == pytest.approx(0.1 + 0.12 + 0.75 * 0.01 * 4 + 0.5 * (0.05 - 0.0075) + 0.08 + 0.28)


@given(st.sampled_from(("seconds", "drafting_s", "bytes_up", "bytes_down")), st.floats(1.0, 5.0))
def test_no_more_of_anything_is_cheaper(name: str, times: float) -> None:
    for preset, device in built_in().devices.items():
        energy = ModelledEnergy(preset, device.power, built_in().radio(device.radio).power, 1)
        more = {**TOKEN, name: times * TOKEN[name]}
        assert energy.expected(**more) >= energy.expected(**TOKEN) * (1 - 1e-9)
