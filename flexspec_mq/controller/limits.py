"""Limits that a user gives, and that the closed form keeps: energy, battery and time of a token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, inf
from typing import Literal, Protocol

import msgspec

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.round_model import Drafting
from schemas.plan import LimitReport

_MEMORY = 8192.0
"""Tokens after which what was spent counts for little (1/e)."""
_SPREAD = 32
"""Tokens over which a debt is paid back, and what was saved is spent."""
_RESERVE = 8
"""Tokens' worth of a budget that is not spent, as estimates are not exact."""
_AIM = 0.95
"""Share of a latency target that plans are chosen for: estimates are not exact."""


class ExpectedEnergy(Protocol):
    """A device's energy, modelled or as it was measured."""

    def expected(
        self, *, seconds: float, drafting_s: float, messages: float, bytes_up: float, bytes_down: float
    ) -> float | None:
        """Joules of a token with such means; None while nothing is known."""
        ...


class Ledger:
    """Joules of all texts of a node, older ones counting less.

    Attributes:
        mean: joules per token; None before a token.
    """

    def __init__(self) -> None:
        self._joules = self._tokens = 0.0
        self._before = self._begun = (
            0.0  # of these, joules until texts' first tokens; and tokens of these texts
        )
        self.mean: float | None = None

    def spent(self, joules: float, tokens: int) -> None:
        """So much more was spent, and so many tokens came."""
        keeps = exp(-tokens / _MEMORY)
        self._joules = keeps * self._joules + joules
        self._tokens = keeps * self._tokens + tokens
        self._before *= keeps
        self._begun *= keeps
        self.mean = self._joules / self._tokens if self._tokens else None

    def ended(self, before: float, tokens: int) -> None:
        """A text of so many tokens, which are entered, took so much until its first one."""
        self._before += before
        self._begun += tokens

    @property
    def beginning(self) -> float:
        """Joules per token that texts take until their first one, whatever the plan; 0 before one has ended."""
        return self._before / self._begun if self._begun else 0.0

    def allowed(self, budget: float, remaining: int) -> float:
        """Joules per token for the next ones, so that the mean comes to the budget soon; may be negative.

        Args:
            budget: joules per token.
            remaining: tokens that the text may still have.
        """
        saved = budget * (self._tokens - _RESERVE) - self._joules
        return budget + saved / max(1, min(_SPREAD, remaining))


class TokenPace:
    """Seconds per token of one text after its first."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def mean(self, seen: Observation) -> float | None:
        """Mean so far; None before a second commit. To be asked after each commit, the first one included."""
        if seen.at is None:
            return None
        if self._first is None:
            self._first = seen.committed, seen.at
        tokens, began = self._first
        return (seen.at - began) / (seen.committed - tokens) if seen.committed > tokens else None

    def allowed(self, target: float, seen: Observation) -> float:
        """Seconds per token for the next ones: less than the target where time was lost. None is saved for later."""
        mean, lost = self.mean(seen), 0.0
        if mean is not None and self._first is not None:
            lost = max(0.0, (mean - target) * (seen.committed - self._first[0]))
        return _AIM * target - lost / max(1, min(_SPREAD, seen.remaining))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a node; None is no limit.

    Attributes:
        energy_budget: joules per token, as a mean over what the node writes.
        battery_floor: share of a full charge below which the device drafts nothing.
        latency_target: seconds per output token after the first one (TPOT), as the mean of a text.
        energy: expected energy of plans; None is not known.
        ledger: energy of all texts of the node.
    """

    energy_budget: float | None = None
    battery_floor: float | None = None
    latency_target: float | None = None
    energy: ExpectedEnergy | None = None
    ledger: Ledger = field(default_factory=Ledger, compare=False)


class Option(msgspec.Struct, frozen=True):
    """A way to make drafts, with what it is expected to take for a token.

    Attributes:
        way: how drafts are made.
        own: the worker drafts, as its drafts were measured.
        seconds: expected.
        joules: None while unknown, or where nothing limits them.
        size: bytes of IP, both ways; 0 where nothing asks for them.
    """

    way: Drafting
    own: bool
    seconds: float
    joules: float | None = None
    size: float = 0.0


class TextLimits:
    """How the limits of a node hold in one text.

    Args:
        given: limits of the node.
    """

    def __init__(self, given: Limits) -> None:
        self._given = given
        self._pace = TokenPace()
        self._joules, self._committed = 0.0, 0  # as of the newest plan
        self._beginning: float | None = None  # joules until the first token
        self._least: tuple[float | None, float] | None = None  # joules and seconds that any option comes to
        self.reports: tuple[LimitReport, ...] = ()

    def enter(self, seen: Observation) -> None:
        """Take what was spent and decided since the plan before."""
        given = self._given
        tokens, self._committed = seen.committed - self._committed, seen.committed
        joules = seen.device.joules
        if joules is not None:
            given.ledger.spent(max(0.0, joules - self._joules), tokens)
            self._joules = max(self._joules, joules)
            if self._beginning is None and seen.committed:
                self._beginning = joules
        self.reports = tuple(self._report(seen))

    def ended(self, seen: Observation) -> None:
        """Take what the whole text came to."""
        self.enter(seen)
        if self._beginning is not None:
            self._given.ledger.ended(self._beginning, seen.committed)
        self.reports = tuple(self._report(seen))

    @property
    def frugal(self) -> bool:
        """Whether a latency target says what is fast enough, so that energy, or bytes, are saved within it."""
        return self._given.latency_target is not None

    def device_may_draft(self, seen: Observation) -> bool:
        """Whether the battery is at its floor at least, or something else feeds the device."""
        floor, battery = self._given.battery_floor, seen.device.battery
        return floor is None or battery is None or battery >= floor

    def drafts_unknown(self, seen: Observation) -> bool:
        """Whether the device may draft before anything is known of round trip, forward and drafts."""
        return self._given.energy_budget is None and self.device_may_draft(seen)

    def within(self, options: Sequence[Option], seen: Observation) -> Sequence[Option]:
        """The options that limits leave: energy first, then time; where none is within, the one that comes closest.

        Args:
            options: at least one; where the device may not draft, none in which it does.
            seen: newest observation.
        """
        budget, target = self._given.energy_budget, self._given.latency_target
        least = min(options, key=_joules)
        if budget is not None:
            if seen.device.joules is not None:
                budget = self._given.ledger.allowed(budget, seen.remaining)
            options = [option for option in options if _joules(option) <= budget] or [least]
        fastest = min(options, key=_seconds)
        self._least = least.joules, fastest.seconds
        if target is not None:
            longest = self._pace.allowed(target, seen)
            options = [option for option in options if option.seconds <= longest] or [fastest]
        return options

    def _report(self, seen: Observation) -> Iterator[LimitReport]:
        given, least = self._given, self._least
        budget, floor, target = given.energy_budget, given.battery_floor, given.latency_target
        if budget is not None:
            mean, beginning = given.ledger.mean, given.ledger.beginning
            reach = None if least is None or least[0] is None else least[0] + beginning
            yield _reported("energy_budget", budget, "J per token", mean, reach)
        if floor is not None:
            charge = None if seen.device.battery is None else 100 * seen.device.battery
            yield LimitReport(
                name="battery_floor",
                limit=100 * floor,
                unit="%",
                state="kept" if self.device_may_draft(seen) else "below",
                value=charge,
            )
        if target is not None:
            mean, reach = self._pace.mean(seen), None if least is None else 1000 * least[1]
            mean = None if mean is None else 1000 * mean
            yield _reported("latency_target", 1000 * target, "ms per token", mean, reach)


def _reported(name: str, limit: float, unit: str, mean: float | None, reach: float | None) -> LimitReport:
    """The state of an energy budget or a latency target, by its mean so far and the least of any plan."""
    state: Literal["unknown", "kept", "exceeded", "out_of_reach"] = "unknown" if mean is None else "exceeded"
    if mean is not None and mean <= limit:
        state = "kept"
    elif reach is not None and reach > limit:
        state = "out_of_reach"
    return LimitReport(name=name, limit=limit, unit=unit, state=state, value=mean, reach=reach)


def _seconds(option: Option) -> float:
    return option.seconds


def _joules(option: Option) -> float:
    """While nothing is known, drafts of the device are too much, and anything else is nothing."""
    if option.joules is not None:
        return option.joules
    return inf if option.way.length else 0.0
