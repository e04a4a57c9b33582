"""Joules from counts, linear, so that texts add up; powers from a meter; and presets that name their sources."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.energy.meters import DrawFit
from flexspec_mq.energy.model import DevicePower, ModelledEnergy, Modem, RadioPower, joules
from flexspec_mq.energy.presets import DEVICES, RADIOS, Device, Radio, built_in, figures_of

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


def expected(seconds: float, messages: float) -> float:
    energy = ModelledEnergy("mine", DEVICE, RADIO, 1)
    return energy.expected(seconds=seconds, drafting_s=0.0, messages=messages, bytes_up=0.0, bytes_down=0.0)


def test_a_modem_that_sleeps_between_packets_pays_for_waking() -> None:
    awake = expected(1.0, 2.0)
    assert awake == pytest.approx(2.5 + 2 * 0.1 * 3.0 + 2 * 0.4 * 1.0)
    asleep = expected(60.0, 1.0)
    assert asleep == pytest.approx(60 * 2.5 + 0.25 * 4.0 + 0.1 * 3.0 + 9.9)


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


@given(st.sampled_from(("seconds", "drafting_s", "bytes_up", "bytes_down")), st.floats(1.0, 5.0))
def test_no_more_of_anything_is_cheaper(name: str, times: float) -> None:
    for preset, device in built_in().devices.items():
        energy = ModelledEnergy(preset, device.power, built_in().radios[device.radio].power, 1)
        more = {**TOKEN, name: times * TOKEN[name]}
        assert energy.expected(**more) >= energy.expected(**TOKEN) * (1 - 1e-9)


TICKS = 1024
"""In a second: a power of two, so that no sum of times is rounded."""

sleepy_radios = st.builds(
    lambda promotion, hold, tail: RadioPower(
        promotion_s=promotion / TICKS, hold_s=hold / TICKS, tail_s=tail / TICKS
    ),
    st.integers(0, 60),
    st.integers(0, 40),
    st.integers(0, 200),
)
times = st.lists(st.integers(0, 1000), max_size=25).map(sorted)


def activity(radio: RadioPower, packets: list[float]) -> list[float]:
    """Seconds of waking, of being active, and of the tail: joules of radios that draw a watt in only this state."""
    seconds = []
    for state in ("promotion_w", "active_w", "tail_w"):
        modem = Modem(replace(radio, **{state: 1.0}))
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


@given(sleepy_radios, times)
def test_as_ticked_through(radio: RadioPower, packets: list[int]) -> None:
    if radio.promotion_s == 0 and radio.awake_s == 0:
        packets = sorted(set(packets))  # it sleeps at once: of packets at one time the tick sees one
    found = activity(radio, [at / TICKS for at in packets])
    assert found == pytest.approx(ticked(radio, packets), abs=1e-9)


def test_the_names_that_settings_offer_are_those_of_the_file() -> None:
    presets = built_in()
    assert tuple(presets.devices) == DEVICES
    assert tuple(presets.radios) == RADIOS
    assert {device.radio for device in presets.devices.values()} <= set(RADIOS)


def test_every_source_is_used_and_says_more_than_a_name() -> None:
    presets = built_in()
    everything: list[Device | Radio] = [*presets.devices.values(), *presets.radios.values()]
    used = {figure.source for one in everything for figure in figures_of(one).values()}
    assert used <= set(presets.sources)
    # A source that only other sources refer to.
    assert {key for key in presets.sources if key not in used} <= {"ark-2026"}
    assert all(len(text) > 40 for text in presets.sources.values())


def test_an_assumption_says_so() -> None:
    for key, text in built_in().sources.items():
        assert key.startswith("assumption") == text.startswith("assumption: ")
