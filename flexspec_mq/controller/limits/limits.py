"""What a user may limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.energy.text import PerToken


class ExpectedEnergy(Protocol):
    """What a device draws, modelled or as it was measured."""

    def expected(self, one: PerToken) -> float | None:
        """Joules of a token; None while nothing is known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is None is not limited.

    Attributes:
        energy_budget: joules per token, as a mean over what the node writes.
        battery_floor: share of a full charge below which the device drafts nothing.
        latency_target: seconds per output token after the first one (TPOT), as the mean of a text.
        energy: what plans are expected to draw; None is not known.
        tell: told of each change of a limit's state, in words.
    """

    energy_budget: float | None = None
    battery_floor: float | None = None
    latency_target: float | None = None
    energy: ExpectedEnergy | None = None
    tell: Callable[[str], None] | None = None
