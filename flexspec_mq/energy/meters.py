"""The real meter of this device, if it has one, and the powers that its readings tell: idle, and what drafting adds.

Energy counters of Intel and AMD processors (RAPL) and batteries are as Linux shows them in ``/sys/class``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import exp
from pathlib import Path

from flexspec_mq.errors import UsageError

POWERCAP = Path("/sys/class/powercap")
POWER_SUPPLY = Path("/sys/class/power_supply")
_HOUR = 3600.0
_MICRO = 1e-6
_ZONE, _PART = r"intel-rapl:\d+", r"intel-rapl:\d+:\d+"
_MEMORY = 600.0
"""Seconds after which a reading counts for little (1/e)."""
_PRIOR = 0.1
"""Square seconds that the first guess weighs: that a drafter doubles what the device draws."""


@dataclass(slots=True)
class _Counter:
    """A counter. It starts again from 0 above `most` microjoules."""

    path: Path
    most: int
    last: int

    def since(self) -> int:
        """Microjoules since the last call. It must come before the counter has started again twice."""
        now = _number(self.path)
        grown = now - self.last
        self.last = now
        return grown if grown >= 0 else grown + self.most


class Rapl:
    """Meter of what processors and memory have drawn since it was made.

    It counts the platform where there is a counter of it, else all packages and their memory. Cores and graphics are
    parts of a package, and not counted again.

    Args:
        root: folder of the counters.

    Raises:
        UsageError: there is none, or none may be read.
    """

    name = "rapl"

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = {zone: _text(zone / "name") for zone in _folders(root, _ZONE)}
        if platform := [zone for zone, name in zones.items() if name == "psys"]:
            chosen = platform[:1]
        else:
            parts = _folders(root, _PART)
            parts += [
                part for zone in zones for part in _folders(zone, _PART) if not (root / part.name).exists()
            ]
            chosen = [*zones, *(part for part in parts if _text(part / "name") == "dram")]
        if not chosen:
            raise UsageError(f"there are no energy counters of a processor (RAPL) in {root}")
        self._counters = [
            _Counter(zone / "energy_uj", _number(zone / "max_energy_range_uj"), _number(zone / "energy_uj"))
            for zone in chosen
        ]
        self._microjoules = 0

    def joules(self) -> float:
        """Since this was made; to be asked for often enough: at 200 W a counter may start again in 20 minutes.

        Raises:
            UsageError: a counter cannot be read any more.
        """
        self._microjoules += sum(counter.since() for counter in self._counters)
        return self._microjoules / 1e6


class Batteries:
    """All batteries that feed the device; those of a mouse or a pen are none of them.

    Args:
        root: folder of the supplies.
    """

    name = "battery"

    def __init__(self, root: Path = POWER_SUPPLY) -> None:
        self._root = root
        self._last = {path: _charge(path) for path in self._paths()}
        self._joules = 0.0

    def __bool__(self) -> bool:
        """Whether there is one whose charge can be read."""
        return any(charge is not None for charge in self._last.values())

    def left(self) -> float | None:
        """Share of a full charge, 0 to 1; None without a battery that tells. Never raises."""
        shares = [share for path in self._paths() if (share := _share(path)) is not None]
        return sum(shares) / len(shares) if shares else None

    @property
    def fed(self) -> bool:
        """Whether something else feeds the device, so that the batteries do not tell what it draws."""
        return any(
            _word(path / "status") == "Charging"
            if _is_battery(path)
            else _word(path / "type") != "Battery" and _known_number(path / "online") == 1
            for path in _folders(self._root)
        )

    def joules(self) -> float | None:
        """Given since this was made, in steps of the battery's gauge; None while something else feeds the device.

        Raises:
            UsageError: none can be read any more.
        """
        charges = {path: _charge(path) for path in self._paths()}
        if all(charge is None for charge in charges.values()):
            raise UsageError(f"no battery in {self._root} tells its charge")
        for path, charge in charges.items():
            before = self._last.get(path)
            if charge is not None and before is not None:
                self._joules += before.joules_to(charge)
        self._last = charges
        return None if self.fed else self._joules

    def _paths(self) -> list[Path]:
        return [path for path in _folders(self._root) if _is_battery(path)]


@dataclass(frozen=True, slots=True)
class _Charge:
    """Charge that is left: in joules, or in coulombs at a voltage."""

    joules: float | None
    coulombs: float
    volts: float

    def joules_to(self, later: _Charge) -> float:
        """Given until then; negative if it was charged."""
        if self.joules is not None and later.joules is not None:
            return self.joules - later.joules
        return (self.coulombs - later.coulombs) * (self.volts + later.volts) / 2


Meter = Rapl | Batteries
"""Measures the processors, or the whole device, by joules drawn since some moment; None while it cannot tell."""


def find_meter(powercap: Path = POWERCAP, power_supply: Path = POWER_SUPPLY) -> Meter:
    """The processors' counters where they may be read, for they are fine and never charged; else the batteries.

    Args:
        powercap: folder of the counters.
        power_supply: folder of the batteries.

    Raises:
        UsageError: there is neither; says why.
    """
    try:
        return Rapl(powercap)
    except UsageError as error:
        batteries = Batteries(power_supply)
        if batteries:
            return batteries
        hint = error.hint or "name a preset to have it modelled, or 'none'"
        raise UsageError(
            f"no energy can be measured: {error.message}, and no battery in {power_supply} tells its charge",
            hint=hint,
        ) from None


class DrawFit:
    """Two powers by least squares over intervals, in watts.

    As long as nothing was drafted the readings do not tell what drafting adds. Then it is taken for as much as the
    device draws without.
    """

    def __init__(self) -> None:
        self._tt = self._td = self._dd = self._tj = self._dj = 0.0

    def saw(self, seconds: float, drafting_s: float, joules: float) -> None:
        """Over so many seconds, in so many of which the drafter was busy, so much was drawn."""
        keeps = exp(-seconds / _MEMORY)
        self._tt = keeps * self._tt + seconds * seconds
        self._td = keeps * self._td + seconds * drafting_s
        self._dd = keeps * self._dd + drafting_s * drafting_s
        self._tj = keeps * self._tj + seconds * joules
        self._dj = keeps * self._dj + drafting_s * joules

    @property
    def watts(self) -> tuple[float, float] | None:
        """While nothing is drafted, and what a busy drafter adds; None before a reading."""
        if not self._tt or not self._tj:
            return None
        tt, td, dd = self._tt + _PRIOR, self._td - _PRIOR, self._dd + _PRIOR
        determinant = tt * dd - td * td
        idle = (self._tj * dd - self._dj * td) / determinant
        drafting = (self._dj * tt - self._tj * td) / determinant
        return max(0.0, idle), max(0.0, drafting)


def _folders(root: Path, name: str = ".*") -> list[Path]:
    try:
        return sorted(folder for folder in root.iterdir() if re.fullmatch(name, folder.name))
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError:
        raise UsageError(
            f"{path} may not be read by this user",
            hint="kernels since 2020 let only root read RAPL: run as root, or give the user the right to read it",
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _number(path: Path) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{path} holds no number: {text[:20]!r}") from None


def _charge(path: Path) -> _Charge | None:
    if (energy := _known_number(path / "energy_now")) is not None:
        return _Charge(energy * _MICRO * _HOUR, 0.0, 0.0)
    charge, volts = _known_number(path / "charge_now"), _known_number(path / "voltage_now")
    if charge is None or volts is None:
        return None
    return _Charge(None, charge * _MICRO * _HOUR, volts * _MICRO)


def _share(path: Path) -> float | None:
    percent = _known_number(path / "capacity")
    return None if percent is None else min(max(percent / 100, 0.0), 1.0)


def _is_battery(path: Path) -> bool:
    return (
        _word(path / "type") == "Battery"
        and _word(path / "scope") != "Device"
        and _known_number(path / "present") != 0
    )


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _known_number(path: Path) -> int | None:
    try:
        return int(_word(path))
    except ValueError:
        return None
