"""Batteries as meters, read from folders like those of Linux that each test writes."""

from pathlib import Path

import pytest

from flexspec_mq.energy.meters import Batteries, find_meter
from flexspec_mq.errors import UsageError


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def test_a_meter_that_goes_away(tmp_path: Path) -> None:
    battery = laptop(tmp_path, energy_now=10_000_000)
    batteries = find_meter(tmp_path)
    (battery / "energy_now").unlink()
    with pytest.raises(UsageError, match="tells its charge"):
        batteries.joules()


def laptop(root: Path, **files: object) -> Path:
    return write(root / "BAT0", type="Battery", status="Discharging", **files)


def test_a_battery_in_energy(tmp_path: Path) -> None:
    battery = laptop(tmp_path, energy_now=40_000_000, capacity=80)
    write(tmp_path / "AC", type="Mains", online=0)
    meter = Batteries(tmp_path)
    assert meter.left() == 0.8
    write(battery, energy_now=39_990_000)
    assert meter.joules() == pytest.approx(36.0)


def test_a_battery_in_charge_counts_by_its_voltage(tmp_path: Path) -> None:
    battery = laptop(tmp_path, charge_now=2_000_000, voltage_now=4_000_000, capacity=50)
    meter = Batteries(tmp_path)
    assert meter.left() == 0.5
    write(battery, charge_now=1_990_000, voltage_now=3_800_000)
    assert meter.joules() == pytest.approx(0.01 * 3600 * 3.9)


def test_several_batteries_and_that_of_a_mouse(tmp_path: Path) -> None:
    laptop(tmp_path, energy_now=10_000_000, capacity=40)
    second = write(tmp_path / "BAT1", type="Battery", status="Unknown", energy_now=20_000_000, capacity=90)
    write(tmp_path / "mouse", type="Battery", scope="Device", capacity=1, energy_now=1)
    write(tmp_path / "BAT2", type="Battery", present=0, capacity=0, energy_now=0)
    meter = Batteries(tmp_path)
    assert meter.left() == pytest.approx(0.65)
    write(second, energy_now=19_900_000)
    assert meter.joules() == pytest.approx(360.0)


@pytest.mark.parametrize(
    ("status", "supply"),
    [
        ("Charging", {}),
        ("Full", {"type": "Mains", "online": 1}),
        ("Discharging", {"type": "USB", "online": 1}),
    ],
)
def test_a_device_that_something_else_feeds_tells_nothing(
    tmp_path: Path, status: str, supply: dict[str, object]
) -> None:
    battery = laptop(tmp_path, energy_now=10_000_000, capacity=40)
    meter = Batteries(tmp_path)
    write(battery, status=status, energy_now=9_999_000)
    if supply:
        write(tmp_path / "plug", **supply)
    assert meter.joules() is None
    assert meter.left() == 0.4
    write(battery, status="Discharging", energy_now=9_998_000)
    if supply:
        write(tmp_path / "plug", online=0)
    assert meter.joules() == pytest.approx(7.2)


def test_no_battery_is_no_error_for_the_power(tmp_path: Path) -> None:
    assert Batteries(tmp_path / "none").left() is None
    laptop(tmp_path, capacity="?", energy_now="?")
    assert not Batteries(tmp_path)
    assert Batteries(tmp_path).left() is None


def test_without_a_battery_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no energy can be measured") as caught:
        find_meter(tmp_path / "none")
    assert "preset" in caught.value.hint
