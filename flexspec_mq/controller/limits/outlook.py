"""All ways to make drafts, and what each is expected to take for a token: seconds, joules and bytes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flexspec_mq.controller.choices import (
    LENGTHS,
    NOBODY,
    TEXT,
    Choice,
    by_worker,
    choices,
    forecast,
    forward_of,
    pace_of,
    reading,
)
from flexspec_mq.energy.text import OVERHEAD_DOWN, OVERHEAD_UP, PerToken
from flexspec_mq.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.controller.calibration import Calibration
    from flexspec_mq.controller.forecast import Forecast, Pace
    from flexspec_mq.controller.limits.limits import ExpectedEnergy
    from flexspec_mq.controller.plan import Observation, Plan

ASKING = Choice(0, 1, False)
"""Nobody drafts, and the worker waits to be asked: where it may not run ahead."""
_CREDITS = 64
"""Tokens that a worker which runs ahead decides, roughly, between two messages of a device that does not draft:
credit, and what asks for the round trip."""
_DRAFTS = 1.0
"""Tokens that a worker lately drafted for a verdict, if it drafts: one whose draft reads a long prompt does not."""
_READ = 0.12
"""What a token that the device's draft has to read first is taken to cost, as a share of one that it drafts."""
_AGAIN = 16
"""Looks from one forecast of all ways to the next at least, as what the device draws may be measured better."""
_DRAFT, _TOKEN, _VERDICT = 40.0, 3.0, 45.0
"""Payload bytes of a draft without its tokens, of each of them, and of a verdict; roughly."""


@dataclass(frozen=True, slots=True)
class Option:
    """A way to make drafts, with what it is expected to take for a token.

    Attributes:
        choice: the way.
        own: by what the worker's own drafts were measured to give.
        forecast: in seconds, uncorrected.
        seconds: corrected by what was measured.
        joules: None while unknown.
        size: bytes of IP, both ways.
    """

    choice: Choice
    own: bool
    forecast: float
    seconds: float
    joules: float | None
    size: float

    @property
    def name(self) -> str:
        """For people."""
        return "worker drafts" if self.own else self.choice.name


class Outlook:
    """What is expected in one session, as of what it has seen last.

    Args:
        base: what the user allows: no run-ahead where it has none, no drafts of the device where its K is 0.
        calibration: corrects forecasts.
        energy: None knows nothing.
    """

    def __init__(self, base: Plan, calibration: Calibration, energy: ExpectedEnergy | None) -> None:
        self._base = base
        self._calibration = calibration
        self._energy = energy
        self._seen: Observation
        self._pace: Pace
        self._own = False
        self._reads = 0.0
        self._kept: tuple[object, Sequence[Option]] = None, ()
        self._times = 0

    def saw(self, seen: Observation, wait: float, *, drafts: bool) -> None:
        """Go on from that.

        Args:
            seen: of which round trip and forward are known.
            wait: see `Pace`.
            drafts: the device has drafted in this session, so that its draft has read the text.

        Raises:
            UsageError: they are not.
        """
        timed = seen if seen.draft_time is not None else replace(seen, draft_time=draft_time(seen))
        pace = pace_of(timed, wait)
        if pace is None:
            raise UsageError("nothing can be expected before round trip and forward are known")
        self._seen, self._pace = seen, pace
        unread = 0 if drafts else seen.prompt + seen.committed
        reads = _READ * pace.token * unread / max(1, min(seen.remaining, TEXT))
        self._reads = float(f"{reads:.1e}")  # in steps, so that forecasts can be kept
        may = self._base.ahead > 0 and self._base.worker_draft > 0
        self._own = may and seen.own_forward is not None and seen.worker_drafted >= _DRAFTS

    def options(self) -> list[Option]:
        """All that may be chosen; the first one drafts nothing on the device."""
        nobody = self.option(NOBODY if self._base.ahead else ASKING)
        return [nobody, *self._device()] if self._base.draft_length else [nobody]

    def _device(self) -> Sequence[Option]:
        """Those in which the device drafts. They are kept while nothing that matters to them changes."""
        granted, ahead = self._seen.granted, self._base.ahead > 0
        most = LENGTHS[-1] if granted is None else min(LENGTHS[-1], granted)
        ratios = [self._calibration.ratio(choice) for choice in choices(1, may_run_ahead=True)[:3]]
        key = self._pace, self._reads, most, ratios
        self._times += 1
        if key != self._kept[0] or self._times % _AGAIN == 0:
            able = choices(most, may_run_ahead=ahead)
            self._kept = key, [self.option(choice) for choice in able if choice.length]
        return self._kept[1]

    def option(self, choice: Choice) -> Option:
        """One of them."""
        pace = self._pace
        own = self._own and choice == NOBODY
        found = forecast(choice, pace)
        uncorrected = by_worker(self._seen) + reading(self._seen) if own else found.seconds
        seconds = uncorrected * self._calibration.ratio(choice)
        if choice.length and not choice.ahead:
            seconds += self._reads
        one = self._per_token(choice, found, seconds, own=own)
        joules = None if self._energy is None else self._energy.expected(one)
        return Option(choice, own, uncorrected, seconds, joules, one.bytes_up + one.bytes_down)

    def _per_token(self, choice: Choice, found: Forecast, seconds: float, *, own: bool) -> PerToken:
        asks = 1 / _CREDITS if choice.ahead else 1.0
        up = found.drafted / choice.length if choice.length else asks
        down = found.verdicts
        if own:
            down = 1 / max(1.0, self._seen.own_tokens or 1.0)
        drafting = min(seconds, found.drafted * self._pace.token)
        if choice.length:
            drafting += self._reads
        return PerToken(
            seconds=seconds,
            drafting_s=drafting,
            up=up,
            down=down,
            bytes_up=up * (_DRAFT + OVERHEAD_UP) + _TOKEN * found.drafted,
            bytes_down=down * (_VERDICT + OVERHEAD_DOWN),
        )


def draft_time(seen: Observation) -> float:
    """Seconds of a drafted token. What was drafted without ever being timed was looked up, and takes none.

    Before anything was drafted it is taken for that of a forward of the target, which no draft model takes.
    """
    if seen.draft_time is not None:
        return seen.draft_time
    return 0.0 if seen.drafted else forward_of(seen)
