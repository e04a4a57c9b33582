"""Limits of the user: joules and milliseconds of a token, and how far a battery may be drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from edge_node.energy import EnergyMeter
from flexspec_mq.controller.limits import Limits
from flexspec_mq.controller.policies import DEFAULT
from flexspec_mq.energy.meters import Batteries
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Setting

if TYPE_CHECKING:
    from edge_node.settings import PlanOptions

_FRESH = 10.0
"""Seconds for which a battery's charge is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """Limits that the default policy keeps; `Setting.help` has the words for most."""

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

    def gauge(self) -> BatteryGauge | None:
        """The gauge of the battery's charge; None where nobody wants to know.

        Raises:
            UsageError: there is a floor, and no battery tells its charge.
        """
        return None if self.battery_floor is None else BatteryGauge(Batteries(), self.battery_floor / 100)


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
