"""The default policy: the plan with the least expected seconds for a token, within the user's limits.

Who drafts, how many tokens a batch has, how many batches are in flight, how far the worker runs ahead, quality of
service and limits are one choice, made here. Expected seconds are those of `round_model`, over what the node measures;
lengths that come into question are its `LENGTHS`, and `AdaptivePolicy` ends a batch early where its next token
is not likely enough.
"""

from collections.abc import Sequence
from math import inf

import msgspec

from flexspec_mq.controller.adaptive import AdaptivePolicy
from flexspec_mq.controller.explain import device_drafts, nobody_drafts
from flexspec_mq.controller.limits import Limits, Option, TextLimits
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.round_model import (
    ASKING,
    LENGTHS,
    NOBODY,
    Drafting,
    Forecast,
    RoundTimes,
    forecast,
    plan_space,
    round_times,
    worker_drafting,
)
from flexspec_mq.energy.model import OVERHEAD_DOWN, OVERHEAD_UP
from schemas.plan import LimitReport, PlanAlternative

_DRAFTED = 0.005
"""Share of a token's time that a token drafted on the device is worth avoiding: it takes energy."""
_BETTER = 0.03
"""Share by which another way has to be better: estimates are no better than that."""
_EVERY = 4
"""Plans from one choice to the next, two rounds; sixteen lose 1.5 % on slow targets in simulated time."""
_TRIED = 8.0
"""Judged tokens of a version, from which on a worker may wait for more: before, nobody knows what that is worth, and a
text would pay for a guess."""
_OTHERS = 0.25
"""Share of a forward by which a session's turn comes later where the worker waits for it, from which on others wait
there too: it had better be in their forwards. A crowded worker is full only while all sessions have work for it."""
_EXPLORED = 24
"""Tokens that the device may draft only for exploration, of all texts that it writes at once: texts differ, and
where nobody drafts nobody learns it. Beside a worker that runs ahead that takes no time to speak of."""
_HOPE, _DEARER = 4.0, 1.1
"""Factor by which the odds of a drafted token may be better than known for that, and by which seconds may be worse."""
_TOGETHER = 0.25
"""Share of a forward in which a drafter that several texts share has a token for each: beyond it is not only late, but
takes time from the processor that reads their verdicts, or even verifies."""
_READS = 0.5
"""Share of the text's time by streaming in which its draft may read the prompt: the rest has to pay for that."""
_UNTIMED = 2
"""Tokens of a batch, at most, of a draft that was never timed, where a limit depends on its time."""
_CREDITS = 64
"""Tokens that a worker which runs ahead decides, roughly, between two messages of a device that does not draft."""
_DRAFT_BYTES, _TOKEN_BYTES, _VERDICT_BYTES = 40.0, 3.0, 45.0
"""Payload of a draft without its tokens, of each of them, and of a verdict, by `lab.benchmarks.transport`."""


class ClosedFormPolicy(AdaptivePolicy):
    """The fastest way of all: the worker drafts, the device does with some length, window and look-ahead, or nobody.

    Args:
        base: see `AdaptivePolicy`.
        choose_qos: likewise.
        limits: constraints of the choice; None is none.
    """

    def __init__(self, base: Plan, *, choose_qos: bool = False, limits: Limits | None = None) -> None:
        super().__init__(base, choose_qos=choose_qos)
        self._given = limits
        self._limits = None if limits is None else TextLimits(limits)
        self._plans = 0
        self._chosen: Drafting | None = None
        self._options: Sequence[Option] = ()
        self._left: Sequence[Option] = ()

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch."""
        self._plans += 1
        self._watch(seen)
        limits = self._limits
        if limits is not None:
            limits.enter(seen)
        if limits is not None or self._chosen is None or self._plans % _EVERY == 1:
            self._look_at_qos(seen)
            self._choose(seen)
        if self._chosen is not None:
            # One model drafts at a time: the worker's would take its time before forwards that the device's fill.
            alone = self._chosen.length > 0 and seen.draft_timed and seen.worker.token > 0.0
            return self._plan_of(self._chosen, seen, worker=not alone)
        crowded = self.base.ahead > 0 and self._crowded(seen)
        drafts = not crowded and (limits is None or limits.drafts_unknown(seen))
        return self._unknown(drafts=drafts)

    def ended(self, seen: Observation) -> None:
        """See `Policy`."""
        if self._limits is not None:
            self._limits.ended(seen)

    def alternatives(self) -> Sequence[PlanAlternative]:
        """See `Policy`: the fastest of each kind, those that limits exclude apart, and what was chosen."""
        told: dict[tuple[bool, bool, bool], Option] = {}
        for option in sorted(self._options, key=lambda option: option.seconds, reverse=True):
            told[option in self._left, option.way.length > 0, option.way.ahead] = option
        chosen = [option for option in self._options if option.way == self._chosen]
        return [
            PlanAlternative(
                name=_name(option),
                ms_per_token=1000 * option.seconds,
                chosen=option.way == self._chosen,
                j_per_token=option.joules,
                allowed=option in self._left,
            )
            for option in dict.fromkeys([*told.values(), *chosen])
        ]

    def limits(self) -> Sequence[LimitReport]:
        """See `Policy`."""
        return () if self._limits is None else self._limits.reports

    def _choose(self, seen: Observation) -> None:
        """Take the best way of all, or the one of before while that is as good; none while nothing is known."""
        # Limits need a choice from the start on: a draft that was never timed is free until a short batch tells.
        times = round_times(seen, token=None if self._limits is None else 0.0)
        if times is None:
            if self._limits is not None:
                self._chosen = None
            return
        options = self._options = self._expected(seen, times)
        limits = self._limits
        left = options if limits is None else limits.within(options, seen)
        self._left = left
        frugal = limits is not None and limits.frugal
        self._chosen = _best(left, self._chosen, frugal=frugal)
        explores = not (frugal or left[0].own) and seen.drafted * seen.sessions < _EXPLORED
        if self._chosen == NOBODY and explores:
            self._chosen = self._explore(left, times)

    def _explore(self, options: Sequence[Option], times: RoundTimes) -> Drafting:
        """How the device is to draft where that would pay at a better acceptance rate than is known; else nobody."""
        acceptance = tuple([_HOPE * share / (1.0 + (_HOPE - 1.0) * share) for share in times.acceptance])
        hopeful = msgspec.structs.replace(times, acceptance=acceptance)
        most, way, least = options[0].seconds * _DEARER, NOBODY, 0.999 * times.forward
        for option in options:
            if option.way.length and option.way.ahead and option.seconds < most:
                seconds = forecast(option.way, hopeful).seconds
                if seconds < least:
                    way, least = option.way, seconds
        return way

    def _expected(self, seen: Observation, times: RoundTimes) -> list[Option]:
        """All ways that come into question: first the one without drafts of the device, or the worker's own drafts."""
        base, limits = self.base, self._limits
        nobody = NOBODY if base.ahead else ASKING
        own = self._may_draft and (self.worker_alone or seen.worker.token > 0.0)
        if own:  # who drafts there is the worker's rule
            options = [self._option(nobody, worker_drafting(seen), times, own=True)]
        else:
            options = [self._option(nobody, forecast(nobody, times), times)]
        if not base.draft_length or (limits is not None and not limits.device_may_draft(seen)):
            return options
        if base.ahead and (self._crowded(seen) or seen.reading > _READS * seen.remaining * seen.forward):
            return options
        if not base.ahead and limits is None:
            options = []
        granted = seen.worker.granted
        most = LENGTHS[-1] if granted is None else granted
        if seen.draft_time is None and not seen.drafted:  # what was drafted without being timed was looked up
            most = min(most, _UNTIMED)
        known = seen.draft_timed and seen.judged >= _TRIED
        waits = known and seen.queueing_delay <= _OTHERS * seen.forward
        for way in plan_space(most, ahead=base.ahead > 0, waits=waits):
            expected = forecast(way, times)
            # What comes of a worker's drafts comes with any plan: beside them the device's have to help by themselves.
            if not own or expected.seconds < 0.999 * times.forward:
                options.append(self._option(way, expected, times))
        return options

    def _option(self, way: Drafting, expected: Forecast, times: RoundTimes, *, own: bool = False) -> Option:
        drafted = expected.drafted
        seconds = expected.seconds * (1.0 + _DRAFTED * drafted)
        given = self._given
        if given is None:
            return Option(way, own, seconds)
        up, down = 1.0 / _CREDITS if way.ahead else 1.0, expected.verdicts
        if way.length:
            up = drafted / way.length
        bytes_up = up * (_DRAFT_BYTES + OVERHEAD_UP) + _TOKEN_BYTES * drafted
        bytes_down = down * (_VERDICT_BYTES + OVERHEAD_DOWN)
        joules = None
        if given.energy is not None:
            joules = given.energy.expected(
                seconds=seconds,
                drafting_s=min(seconds, drafted * times.token),
                messages=up + down,
                bytes_up=bytes_up,
                bytes_down=bytes_down,
            )
        return Option(way, own, seconds, joules, bytes_up + bytes_down)

    def _crowded(self, seen: Observation) -> bool:
        """Whether the node writes so many texts that its drafter has no time for all, or nobody knows it has."""
        if seen.sessions == 1:
            return False
        return seen.draft_time is None or seen.draft_time > _TOGETHER * seen.forward


def _best(options: Sequence[Option], before: Drafting | None, *, frugal: bool) -> Drafting:
    """The way with the least cost, or the one of before while that is as good.

    Args:
        options: at least one.
        before: the way of before; None before any.
        frugal: cost is energy, or bytes where that is unknown; otherwise time.
    """
    best, least, stays = options[0], inf, inf
    for option in options:
        cost = option.seconds
        if frugal:
            cost = option.size if option.joules is None else option.joules
        if cost < least:
            best, least = option, cost
        if option.way == before:
            stays = cost
    return best.way if before is None or least <= stays * (1 - _BETTER) else before


def _name(option: Option) -> str:
    if option.own:
        return "worker drafts"
    way = option.way
    if not way.length:
        return nobody_drafts(ahead=way.ahead)
    return device_drafts(way.length, way.window, ahead=way.ahead)
