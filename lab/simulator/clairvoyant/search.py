"""A plan for every few tokens of an answer, chosen by somebody who can try them all: what could have been reached.

The simulator is a function of its seeds, so an answer can be written again and again over the same piece of the
channel with one plan changed at a time. Nobody promises that nothing faster exists; `bound` says what cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.errors import FlexSpecError
from lab.simulator.answers import Setting
from lab.simulator.recording import RecordedText
from lab.simulator.simulation import Simulation

HOLDS = 8
"""Tokens for which a plan holds."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A `Policy` that plans by a list.

    Attributes:
        plans: for `HOLDS` tokens each, the last one for all that follow; at least one.
    """

    plans: tuple[Plan, ...]

    def plan(self, seen: Observation) -> Plan:
        """The plan of the tokens that come next."""
        return self.plans[min(seen.committed // HOLDS, len(self.plans) - 1)]


@dataclass(frozen=True, slots=True)
class Searched:
    """What was found.

    Attributes:
        schedule: the fastest.
        seconds: of the answer with it.
        held: of the answer with the fastest plan that holds from its beginning to its end.
    """

    schedule: Schedule
    seconds: float
    held: float


def search(setting: Setting, text: RecordedText, begins_s: float | None, plans: Sequence[Plan]) -> Searched:
    """The fastest schedule of an answer that changing one plan at a time finds.

    It begins with the fastest plan that is held all the way, and tries all others for each piece of the text in turn.

    Args:
        setting: of the simulation. Its shortest text is written before, so that the worker knows how fast it reads.
        text: of the recording.
        begins_s: second of the channel at which it is asked for; None on loopback.
        plans: that may be chosen, at least one.

    Raises:
        FlexSpecError: an answer is not the recorded text, or does not end.
    """
    first = min(setting.recording.texts, key=lambda one: len(one.tokens))

    def seconds(schedule: Schedule) -> float:
        simulation = Simulation(setting, lambda: schedule)
        simulation.answer(first, begins_s)
        answer = simulation.answer(text, begins_s)
        if answer.problem:
            raise FlexSpecError(f"a simulated answer is wrong: {answer.problem}")
        return answer.seconds

    pieces = ceil(len(text.tokens) / HOLDS)
    held, best = min(
        ((seconds(one), one) for one in (Schedule((plan,) * pieces) for plan in plans)), key=lambda it: it[0]
    )
    least = held
    for piece in range(pieces):
        before = best
        for plan in plans:
            if plan == before.plans[piece]:
                continue
            other = Schedule((*before.plans[:piece], plan, *before.plans[piece + 1 :]))
            took = seconds(other)
            if took < least:
                least, best = took, other
    return Searched(best, least, held)
