"""The batteries of this device as a meter, and the powers that its readings tell: idle, and what drafting adds.

Batteries are as Linux shows them in ``/sys/class``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from pathlib import Path

from flexspec_mq.errors import UsageError

POWER_SUPPLY = Path("/sys/class/power_supply")
_HOUR = 3600.0
_MICRO = 1e-6
_MEMORY = 600.0
"""Seconds after which a reading counts for little (1/e)."""
_PRIOR = 0.1
"""Square seconds that the first guess weighs: that a drafter doubles what the device draws."""


class Batteries:
    """All batteries that feed the device; those of a mouse or a pen are none of them.

    Args:
        root: folder of the supplies.
    """

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


def find_meter(root: Path = POWER_SUPPLY) -> Batteries:
    """The batteries of the device, as a meter of what it draws.

    Raises:
        UsageError: none of them tells its charge.
    """
    if batteries := Batteries(root):
        return batteries
    raise UsageError(
        f"no energy can be measured: no battery in {root} tells its charge",
        hint="name a preset to have it modelled, or 'none'",
    )


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


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


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
