"""Real meters, read from folders like those of Linux that each test writes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flexspec_mq.energy.meters import Batteries, Rapl, find_meter
from flexspec_mq.errors import UsageError

MOST = 262_143_328_850


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def zone(root: Path, number: str, name: str, energy: int) -> Path:
    return write(root / f"intel-rapl:{number}", name=name, energy_uj=energy, max_energy_range_uj=MOST)


def test_packages_and_memory_count_and_parts_of_a_package_do_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "0", "package-0", 1_000_000), zone(tmp_path, "1", "package-1", 5_000_000)
    memory, cores = zone(tmp_path, "0:0", "dram", 7), zone(tmp_path, "0:1", "core", 7)
    write(tmp_path / "intel-rapl-mmio:0", name="package-0", energy_uj=0, max_energy_range_uj=MOST)
    meter = Rapl(tmp_path)
    write(first, energy_uj=3_000_000)
    write(second, energy_uj=5_500_000)
    write(memory, energy_uj=250_007)
    write(cores, energy_uj=90_000_000)
    write(tmp_path / "intel-rapl-mmio:0", energy_uj=90_000_000)
    assert meter.joules() == 2.75


def test_parts_inside_their_package_are_found_and_a_platform_counts_alone(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", 0)
    memory = zone(package, "0:0", "dram", 0)
    meter = Rapl(tmp_path)
    write(memory, energy_uj=1_500_000)
    assert meter.joules() == 1.5
    platform = zone(tmp_path, "1", "psys", 0)
    meter = Rapl(tmp_path)
    write(package, energy_uj=4_000_000)
    write(platform, energy_uj=9_000_000)
    assert meter.joules() == 9.0


def test_a_counter_that_starts_again(tmp_path: Path) -> None:
    package = zone(tmp_path, "0", "package-0", MOST - 1_000_000)
    meter = Rapl(tmp_path)
    write(package, energy_uj=500_000)
    assert meter.joules() == 1.5
    write(package, energy_uj=750_000)
    assert meter.joules() == 1.75


def test_counters_that_may_not_be_read_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root no file is forbidden, so that the refusal itself is made here."""
    package = zone(tmp_path, "0", "package-0", 1)
    read = Path.read_text

    def refuse(path: Path, *args: str, **more: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **more)

    monkeypatch.setattr(Path, "read_text", refuse)
    ways: list[Callable[[], object]] = [
        lambda: Rapl(tmp_path),
        lambda: find_meter(tmp_path, tmp_path / "none"),
    ]
    for read_meter in ways:
        with pytest.raises(UsageError, match="may not be read by this user") as caught:
            read_meter()
        assert str(package / "energy_uj") in caught.value.message
        assert "root" in caught.value.hint


def test_a_counter_that_holds_no_number_and_a_meter_that_goes_away(tmp_path: Path) -> None:
    package, battery = zone(tmp_path, "0", "package-0", 1), laptop(tmp_path / "supply", energy_now=10_000_000)
    counters, batteries = Rapl(tmp_path), Batteries(tmp_path / "supply")
    write(package, energy_uj="unknown")
    with pytest.raises(UsageError, match="holds no number: 'unknown'"):
        Rapl(tmp_path)
    (package / "energy_uj").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        counters.joules()
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


def test_the_processors_counters_come_before_a_battery(tmp_path: Path) -> None:
    zone(tmp_path / "powercap", "0", "package-0", 1)
    laptop(tmp_path / "supply", energy_now=1_000_000)
    assert find_meter(tmp_path / "powercap", tmp_path / "supply").name == "rapl"
    assert find_meter(tmp_path / "none", tmp_path / "supply").name == "battery"
    with pytest.raises(UsageError, match="no energy can be measured") as caught:
        find_meter(tmp_path / "none", tmp_path / "none")
    assert "preset" in caught.value.hint
