"""Outcomes of every action: an episode is gone through once for each, and is the same up to one place.

The simulator is a function of its seeds. So all actions meet the same link, the same text and the same history, and
differences between them are theirs, which is why a few hundred episodes are enough.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.rl import ACTIONS, ActionPolicy, features
from flexspec_mq.controller.round_model import TEXT, worker_reading
from flexspec_mq.errors import FlexSpecError
from lab.simulator.answers import Setting
from lab.simulator.simulation import Simulation

Act = Callable[[Sequence[float]], int]
BASE = Plan(ahead=8, qos=1, worker_draft=8)
_RANDOM = 0.2
"""Share of steps before the place at which any action is taken."""
_LATER = 3
"""Later states of each branch that are looked at."""
_LEFT = 12
"""Tokens that must be left of a text."""


class Row(NamedTuple):
    """A state, and what each action comes to from there.

    Attributes:
        numbers: features of the state.
        seconds: until the text ends, where the action is held that long.
        branched: true for the very state at which the actions began; false for one of another action's history.
    """

    numbers: list[float]
    seconds: list[float]
    branched: bool


@dataclass(slots=True)
class _Branch:
    """Outcome of an action: tokens and seconds at each of its steps and at the text's end, and what was seen."""

    places: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    seen: list[Observation] = field(default_factory=list)

    def left(self, place: int) -> float:
        """Seconds from a place of the text to its end."""
        places, times = self.places, self.times
        low = min(max(bisect_right(places, place), 1), len(places) - 1) - 1
        share = (place - places[low]) / max(1, places[low + 1] - places[low])
        return times[-1] - times[low] - share * (times[low + 1] - times[low])


class _ChosenPolicy(ActionPolicy):
    """Does as it is told."""

    def __init__(self, choose: Callable[[Observation], int]) -> None:
        super().__init__(BASE)
        self._choose = choose

    def act(self, seen: Observation, able: Sequence[int]) -> int:  # noqa: ARG002  episodes allow all of them
        return self._choose(seen)


def branch(setting: Setting, seed: int, act: Act) -> list[Row]:
    """Rows of an episode.

    Args:
        setting: the episode; its texts are written one after the other.
        seed: seed of what is drawn besides.
        act: chooses on the way to the place at which actions part; sometimes a random action is taken instead.
    """
    rng = random.Random(f"branch {seed}")
    text, place = (0, 0) if rng.random() < 0.2 else (1, rng.choice((0, 0, 8, 16, 24, 32)))
    whole: list[_Branch] = []
    for action in range(len(ACTIONS)):
        found = _go(setting, random.Random(f"way {seed}"), act, text, place, action)
        if found is None:
            return []
        whole.append(found)
    rows = [_row(whole, whole[0].seen[0], whole[0].places[0], branched=True)]
    for one in whole:
        able = [at for at in range(1, len(one.seen)) if one.places[at] <= one.places[-1] - _LEFT]
        later = rng.sample(able, min(_LATER, len(able)))
        rows += [_row(whole, one.seen[at], one.places[at], branched=False) for at in later]
    return rows


def _row(branches: Sequence[_Branch], seen: Observation, place: int, *, branched: bool) -> Row:
    seconds = [one.left(place) for one in branches]
    # A worker's draft has to read the prompt first, which its own branch has behind it by now.
    late = 0.0 if branched else worker_reading(seen) * max(1, min(seen.remaining, TEXT))
    seconds = [
        spent + (late if action.worker else 0.0) for spent, action in zip(seconds, ACTIONS, strict=True)
    ]
    return Row(features(seen), seconds, branched)


def _go(setting: Setting, rng: random.Random, act: Act, text: int, place: int, action: int) -> _Branch | None:
    """Follow an episode, and hold an action from a place to the end of its text; None if that is too late.

    It is too late as well where nothing is ever known, as texts end before the draft's time is measured.
    """
    branch, number = _Branch(), 0

    def choose(seen: Observation) -> int:
        if number < text or seen.committed < place:
            return rng.randrange(len(ACTIONS)) if rng.random() < _RANDOM else act(features(seen))
        branch.places.append(seen.committed)
        branch.times.append(simulation.now)
        branch.seen.append(seen)
        return action

    try:
        others = lambda: ClosedFormPolicy(BASE)  # noqa: E731
        simulation = Simulation(setting, lambda: _ChosenPolicy(choose), others)
        for number, recorded in enumerate(setting.recording.texts[: text + 1]):  # noqa: B007  `choose` looks at it
            written = simulation.answer(recorded)
    except FlexSpecError:
        return None
    ends = len(setting.recording.texts[text].tokens)
    if not branch.places or branch.places[0] > ends - _LEFT:
        return None
    branch.places.append(ends)
    branch.times.append(written.ended)
    return branch
