"""The presets are complete, name their sources, and stand in the document."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from flexspec_mq.energy.presets import DEVICES, RADIOS, Device, Radio, built_in, figures_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "energy.md"


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
    # One that only others refer to.
    assert {key for key in presets.sources if key not in used} <= {"ark-2026"}
    assert all(len(text) > 40 for text in presets.sources.values())


def test_an_assumption_says_so() -> None:
    for key, text in built_in().sources.items():
        assert key.startswith("assumption") == text.startswith("assumption: ")


def test_figures_that_are_computed_from_their_sources() -> None:
    presets = built_in()
    cores = {name: device.core_w.value for name, device in presets.devices.items()}
    assert cores["raspberry-pi-5"] == pytest.approx((9.7 - 2.8) / 4)
    assert cores["raspberry-pi-4"] == pytest.approx((5.0 - 1.6) / 4)
    assert cores["phone-4g"] == pytest.approx(3.7e-3 * (223.89 + 2.6 + 8.4), abs=5e-4)
    assert cores["phone-5g"] == pytest.approx(3.7e-3 * (254.25 + 5.94 + 12.37), abs=5e-4)
    assert cores["jetson-orin-nano"] == pytest.approx((16.9 - 4.6) / 16, abs=5e-3)
    assert presets.devices["phone-4g"].idle_w.value == pytest.approx(3.7e-3 * (5.6 + 5.4), abs=5e-5)
    assert presets.devices["phone-5g"].idle_w.value == pytest.approx(3.7e-3 * (10 + 28.6), abs=5e-4)
    assert presets.radios["4g"].idle_w.value == pytest.approx(0.043 * 0.594 / 1.28, abs=5e-4)


def test_bytes_hardly_matter_beside_time() -> None:
    """A round of 300 bytes each way, as at QoS 1, costs less than 2 ms of being awake."""
    lte = built_in().radios["4g"]
    joules = 0.001 * lte.up_mw_per_mbit.value * 0.008
    assert 1000 * lte.power.up_j == pytest.approx(joules), "1,000 bytes at 1 Mbit/s take 8 ms"
    for name in ("4g", "5g-nsa"):
        radio = built_in().radios[name].power
        assert 0 < 300 * (radio.up_j + radio.down_j) < 0.002 * radio.active_w


def test_the_document_shows_the_presets_as_they_are() -> None:
    script = runpy.run_path(str(DOCUMENT.parents[1] / "scripts" / "document_tables.py"))
    assert script["presets_table"](built_in()) in DOCUMENT.read_text(encoding="utf-8")
