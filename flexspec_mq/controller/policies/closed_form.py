"""Which plan is fastest, by a closed form over what the node has measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flexspec_mq.controller.calibration import Calibration, Check
from flexspec_mq.controller.choices import (
    LENGTHS,
    NOBODY,
    TAKES,
    Choice,
    by_worker,
    choices,
    crowded,
    forecast,
    forward_of,
    pace_of,
    reading,
    too_busy,
)
from flexspec_mq.controller.explain import Alternative
from flexspec_mq.controller.forecast import Pace
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.stopping import ending_early
from flexspec_mq.controller.turn import Turn
from flexspec_mq.controller.who_drafts import WhoDrafts

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

_NAME = "calibration"
"""Key of what is learned in a node's memory."""
DRAFTED = 0.005
"""What drafting a token on the device is worth avoiding, as a share of the time of a token: it takes energy."""
_BETTER = 0.03
"""Another plan has to be better by so much: estimates are no better than that."""
_LOOKS = 24
"""Tokens that the device may draft only to see how it fares, of all texts that it writes at once: texts differ, and
beside a worker that runs ahead that takes no time to speak of."""
_HOPE = 4.0
"""By how much better than known the odds of a drafted token may be, for that to be worth it."""
_DEARER = 1.1
"""By which a forecast may be worse than nobody's for that."""
_OTHERS = 0.25
"""A session that waits for its drafts waits for others then, where its turn comes so much of a forward later: it had
better be in theirs. A crowded worker is full only while all of its sessions have work for it."""
_TRIED = 8.0
"""Drafted tokens of a version that were judged, from which on a worker may wait for more: before, nobody knows what
that is worth, and a text would pay for a guess."""
_EVERY = 4
"""Plans from one choice to the next: looking at all of them takes a millisecond."""
_HELPS = 0.999
"""Drafts that take a larger share than this of the seconds without them are of no use."""
_SOON = 0.01
"""While a worker's draft has more to read than that, as a share of the time, the device drafts."""


@dataclass(slots=True)
class ClosedFormPolicy:
    """The plan with the least expected seconds for a token.

    Either the worker drafts, if it does when it may; or the device, with the best of all lengths and windows and with
    run-ahead or without; or nobody, where no batch is worth its time.

    Attributes:
        base: everything else of the plan, and the plan while nothing is known. Its draft length 0 leaves drafting to
            the worker; its run-ahead 0 allows none.
    """

    base: Plan
    _who: WhoDrafts = field(default_factory=WhoDrafts)
    _chosen: Choice | None = None
    _alone: bool = False
    _expected: float = 0.0
    _among: tuple[Pace, tuple[Choice, ...], float | None] | None = None
    _plans: int = 0
    _turn: Turn = field(default_factory=Turn)
    _calibration: Calibration = field(default_factory=Calibration)
    _check: Check = field(init=False)

    def __post_init__(self) -> None:
        """Until there is a node's memory, it has its own."""
        self._check = Check(self._calibration)

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """See `Learner`."""
        self._turn.recall(memory)
        known = memory.setdefault(_NAME, self._calibration)
        if isinstance(known, Calibration):
            self._calibration, self._check = known, Check(known)

    def plan(self, seen: Observation) -> Plan:
        """The plan for the next batch."""
        self._plans += 1
        self._who.saw(seen)
        self._turn.saw(seen)
        made = self._planned(seen)
        self._turn.planned(made)
        return made

    def _planned(self, seen: Observation) -> Plan:
        base, who = self.base, self._who
        if not base.draft_length:
            return who.running_ahead(base) if base.ahead else base
        if self._chosen is None or self._plans % _EVERY == 1:
            self._choose(seen)
        chosen = self._chosen
        if chosen is None:
            if not base.ahead:
                return base
            return who.running_ahead(replace(base, draft_length=0) if crowded(seen) else base)
        if seen.at is not None:
            self._check.goes_on(None if self._alone else chosen, self._expected, seen.committed, seen.at)
        return carried_out(chosen, base, who, seen)

    def stands_by(self, seen: Observation) -> None:
        """Somebody else made the newest plan: what tokens take says nothing about ours."""
        self._turn.interrupted()
        if seen.at is not None:
            self._check.goes_on(None, 0.0, seen.committed, seen.at)

    def _choose(self, seen: Observation) -> None:
        """Take the fastest of all, or the one of before while that is as good; nothing while nothing is known."""
        before = self._chosen
        pace = pace_of(seen, self._turn.seconds)
        if pace is None:
            return
        may_draft = self.base.ahead > 0 and self.base.worker_draft > 0
        may = may_draft and self._who.alone
        able = self._able(seen)
        if may:  # whether nobody drafts is for the worker to say
            able = tuple(choice for choice in able if choice.length) or able
        costs = {choice: self._cost(choice, pace) for choice in able}
        drafted = may_draft and seen.own_tokens is not None
        helping = {choice: costs[choice] for choice in able if not drafted or _helps(choice, pace)}
        best = min(helping, key=costs.__getitem__, default=NOBODY)
        if before in helping and costs[best] > costs[before] * (1 - _BETTER):
            best = before
        own = by_worker(seen) + reading(seen) if may else None
        self._alone = own is not None and (best == NOBODY or own < costs[best])
        if self._alone:
            best = self._meanwhile(helping, seen)
        elif best == NOBODY and seen.drafted * seen.sessions < _LOOKS and seen.taken > TAKES:
            best = self._look(costs, pace)
        self._chosen, self._expected = best, self._expects(best, pace)
        self._among = pace, able, own

    def _able(self, seen: Observation) -> tuple[Choice, ...]:
        """All ways to make drafts that come into question beside those who share the worker."""
        able = choices(
            LENGTHS[-1] if seen.granted is None else seen.granted, may_run_ahead=self.base.ahead > 0
        )
        if self.base.ahead and (too_busy(seen) or crowded(seen)):
            return (NOBODY,)
        if self.base.ahead and (seen.draft_time is None or seen.acceptance_known[0] < _TRIED):
            return tuple(choice for choice in able if choice.ahead)
        if self.base.ahead and self._turn.seconds > _OTHERS * forward_of(seen):
            return tuple(choice for choice in able if choice.ahead)
        return able

    def _meanwhile(self, costs: Mapping[Choice, float], seen: Observation) -> Choice:
        """How the device drafts where that is left to a worker whose draft may have a prompt to read first."""
        if reading(seen) <= _SOON * forward_of(seen):
            return NOBODY
        return min((choice for choice in costs if choice.ahead), key=costs.__getitem__, default=NOBODY)

    def _look(self, costs: Mapping[Choice, float], pace: Pace) -> Choice:
        """How the device is to draft where it would be worth it on a text that fares better than is known."""
        fares = tuple(_HOPE * share / (1.0 + (_HOPE - 1.0) * share) for share in pace.acceptance)
        hopeful = replace(pace, acceptance=fares)
        looks = [choice for choice in costs if choice.length and choice.ahead]
        best = min(looks, key=lambda choice: self._expects(choice, hopeful), default=NOBODY)
        better = self._expects(best, hopeful) < self._expects(NOBODY, hopeful)
        return best if better and costs[best] < costs[NOBODY] * _DEARER else NOBODY

    def alternatives(self) -> list[Alternative]:
        """See `Explains`: the best of each kind, what was chosen, and the worker's own drafts where it has time."""
        if self._among is None:
            return []
        pace, able, own = self._among
        costs = {choice: self._cost(choice, pace) for choice in able}
        dearest_first = sorted(able, key=costs.__getitem__, reverse=True)
        told = [*{choice.kind: choice for choice in dearest_first}.values()]
        if self._chosen in costs and self._chosen not in told:
            told.append(self._chosen)
        found = [Alternative(choice.name, costs[choice], choice == self._chosen) for choice in told]
        return found if own is None else [*found, Alternative("worker drafts", own, self._chosen == NOBODY)]

    def _cost(self, choice: Choice, pace: Pace) -> float:
        """Seconds of a token, as far as is known, and a little for each that the device drafts."""
        energy = 1 + DRAFTED * forecast(choice, pace).drafted
        return self._expects(choice, pace) * self._calibration.ratio(choice) * energy

    def _expects(self, choice: Choice, pace: Pace) -> float:
        """Seconds of a token, before what this node saw of such expectations."""
        return forecast(choice, pace).seconds


def carried_out(choice: Choice, base: Plan, who: WhoDrafts, seen: Observation) -> Plan:
    """The plan with a choice, whose batches end early, and with what the worker does beside the device.

    Args:
        choice: how drafts are made.
        base: everything else of the plan.
        who: has seen `seen`.
        seen: what is known.
    """
    made = ending_early(choice, base, seen)
    warm = who.warm(made, seen)
    if not choice.ahead and base.ahead and (who.asks or not warm):
        made = ending_early(replace(choice, ahead=True), base, seen)
    # Beside drafts of the device the worker's go on where these end, or come too late. Whether that is worth it, and
    # worth reading a prompt, is for the worker to say.
    if not made.ahead:
        made = replace(made, worker_draft=0)
    return who.running_ahead(made) if made.ahead else made


def _helps(choice: Choice, pace: Pace) -> bool:
    """Whether the device's drafts of a choice make a token faster at all; a choice without any counts as well.

    Beside a worker that drafts itself the closed form is asked alone: what corrects it takes the worker's drafts,
    which come with any plan, for those of the device.
    """
    return not choice.length or forecast(choice, pace).seconds < _HELPS * forecast(NOBODY, pace).seconds
