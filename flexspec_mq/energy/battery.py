"""Batteries, as Linux shows them in ``/sys/class/power_supply``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexspec_mq.errors import UsageError

POWER_SUPPLY = Path("/sys/class/power_supply")
_HOUR = 3600.0
_MICRO = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Reading of the batteries.

    Attributes:
        left: share of a full charge, 0 to 1; None without a battery that tells.
        watts: power that they give now; None while something charges them, or where they do not tell.
    """

    left: float | None = None
    watts: float | None = None


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

    def power(self) -> Power:
        """Read the batteries; never raises: what cannot be read is not known."""
        paths = self._paths()
        shares = [share for path in paths if (share := _share(path)) is not None]
        watts = [given for path in paths if (given := _watts(path)) is not None]
        return Power(
            left=sum(shares) / len(shares) if shares else None,
            watts=sum(watts) if watts and not self.fed else None,
        )

    @property
    def fed(self) -> bool:
        """Whether something else feeds the device, so that the batteries do not tell what it draws."""
        return any(
            _word(path / "status") == "Charging"
            if _is_battery(path)
            else _word(path / "type") != "Battery" and _number(path / "online") == 1
            for path in _folders(self._root)
        )

    def joules(self) -> float | None:
        """Given since this was made, in steps of the battery's gauge; None while something else feeds the device.

        Raises:
            UsageError: none can be read any more.
        """
        found = {path: _charge(path) for path in self._paths()}
        if all(charge is None for charge in found.values()):
            raise UsageError(f"no battery in {self._root} tells its charge")
        for path, charge in found.items():
            before = self._last.get(path)
            if charge is not None and before is not None:
                self._joules += before.joules_to(charge)
        self._last = found
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


def _charge(path: Path) -> _Charge | None:
    if (energy := _number(path / "energy_now")) is not None:
        return _Charge(energy * _MICRO * _HOUR, 0.0, 0.0)
    charge, volts = _number(path / "charge_now"), _number(path / "voltage_now")
    if charge is None or volts is None:
        return None
    return _Charge(None, charge * _MICRO * _HOUR, volts * _MICRO)


def _share(path: Path) -> float | None:
    percent = _number(path / "capacity")
    return None if percent is None else min(max(percent / 100, 0.0), 1.0)


def _watts(path: Path) -> float | None:
    """Drivers differ in the sign of what is given."""
    if (power := _number(path / "power_now")) is not None:
        return abs(power) * _MICRO
    current, volts = _number(path / "current_now"), _number(path / "voltage_now")
    if current is None or volts is None:
        return None
    return abs(current) * _MICRO * volts * _MICRO


def _is_battery(path: Path) -> bool:
    return (
        _word(path / "type") == "Battery"
        and _word(path / "scope") != "Device"
        and _number(path / "present") != 0
    )


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_word(path))
    except ValueError:
        return None
