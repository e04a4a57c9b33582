"""Limits of the user: joules and milliseconds of a token, a battery's charge, and bytes of a day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from edge_node.energy import EnergyMeter
from flexspec_mq.controller.limits import Limits
from flexspec_mq.controller.policies import DEFAULT
from flexspec_mq.daemon.daily import AGAIN, DailyCount, next_day
from flexspec_mq.energy.meters import Batteries
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.settings import Setting
from schemas.plan import LimitReport

if TYPE_CHECKING:
    from edge_node.settings import PlanOptions

_FRESH = 10.0
"""Seconds for which a battery's charge is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Limits, of which the default policy keeps all but that of data; `Setting.help` has the words for most."""

    energy_budget: Annotated[
        float | None,
        Setting(
            help="joules that a token may take out of the device, as a mean over what the node writes; needs energy "
            "(docs/controller.md)",
            unit="J per token",
            above=0,
            default="no limit",
        ),
    ] = None
    battery_floor: Annotated[
        float | None,
        Setting(
            help="percent of a full charge below which the device drafts nothing while it runs on its battery",
            unit="percent",
            least=1,
            most=99,
            default="no limit",
        ),
    ] = None
    latency_target: Annotated[
        float | None,
        Setting(
            help="milliseconds per output token after the first one (TPOT), as the mean of an answer; of the plans "
            "that keep it the one with the least energy is taken, or with the fewest bytes where none is known",
            unit="milliseconds",
            above=0,
            default="no limit",
        ),
    ] = None

    daily_data: Annotated[
        float | None,
        Setting(
            help="megabytes that the node may send and receive in a day (UTC) over its link to the broker, headers of "
            "IP included; then texts end with that reason, and new ones wait or are refused until the next day",
            unit="MB",
            above=0,
            default="no limit",
        ),
    ] = None

    def limits(self, plan: PlanOptions, energy: EnergyMeter | None) -> Limits | None:
        """As policies keep them; None where nothing is limited.

        Args:
            plan: whose policy is to keep them.
            energy: tells what plans take.

        Raises:
            UsageError: the policy keeps none, or nothing can tell whether one is kept.
        """
        given = {
            "energy_budget": self.energy_budget,
            "battery_floor": self.battery_floor,
            "latency_target": self.latency_target,
        }
        names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
        if not names:
            return None
        if plan.policy != DEFAULT:
            raise UsageError(
                f"policy {plan.policy!r} keeps no {' and '.join(names)}",
                hint=f"leave the limit out, or take the policy {DEFAULT}",
            )
        if self.energy_budget is not None and energy is None:
            raise UsageError(
                "an energy budget needs to know what the device draws",
                hint="name a preset with --energy, or have it measured with --energy measured",
            )
        return Limits(
            energy_budget=self.energy_budget,
            battery_floor=None if self.battery_floor is None else self.battery_floor / 100,
            latency_target=None if self.latency_target is None else self.latency_target / 1000,
            energy=energy,
        )

    def data(self, folder: Path | None, name: str) -> DailyData | None:
        """The count of bytes; None where nothing limits them.

        Args:
            folder: where it is persisted; None forgets it when the node stops.
            name: name of the file there.
        """
        most = None if self.daily_data is None else max(1, round(1e6 * self.daily_data))
        return None if most is None else DailyData(most, folder and folder / name)

    def gauge(self) -> BatteryGauge | None:
        """The gauge of the battery's charge; None where nobody wants to know.

        Raises:
            UsageError: there is a floor, and no battery tells its charge.
        """
        return None if self.battery_floor is None else BatteryGauge(Batteries(), self.battery_floor / 100)


class DataSpent(FlexSpecError):
    """The bytes of the day are used up."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint=f"{AGAIN}; the setting daily_data allows more")
        self.retry_after = next_day()


class DailyData(DailyCount):
    """Bytes that go over the link in a day."""

    def spent(self) -> str:
        """Say that the day's bytes are used up; empty as long as some are left."""
        day = self.over
        return f"the {self.most / 1e6:g} MB of data of {day} are used up" if day else ""

    def report(self) -> LimitReport:
        """How the limit is kept."""
        return LimitReport(
            name="daily_data",
            limit=self.most / 1e6,
            unit="MB",
            state="exceeded" if self.over else "kept",
            value=self.count / 1e6,
        )


class BatteryGauge:
    """The charge of the batteries, read seldom.

    Args:
        batteries: batteries of the device.
        floor: share of a full charge below which the device drafts nothing.

    Raises:
        UsageError: none tells it.
    """

    def __init__(self, batteries: Batteries, floor: float) -> None:
        if batteries.left() is None:
            raise UsageError(
                "a battery floor needs a battery, and none tells its charge",
                hint="leave --battery-floor out, or limit energy with --energy-budget",
            )
        self._batteries = batteries
        self._floor = floor
        self._at: float | None = None
        self._left: float | None = None

    def low(self, now: float) -> bool:
        """Whether the device runs on a battery below the floor."""
        left = self.left(now)
        return left is not None and left < self._floor

    def left(self, now: float) -> float | None:
        """Share of a full charge, 0 to 1; None while something else feeds the device."""
        if self._at is None or now >= self._at + _FRESH:
            self._at = now
            self._left = None if self._batteries.fed else self._batteries.left()
        return self._left
