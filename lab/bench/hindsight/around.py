"""What daemons take around forwards, beside what a loop alone does: some texts are streamed over loopback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import msgspec

from flexspec_mq.controller.policies.fixed import FixedPolicy
from lab.bench.figures.seconds import Sample
from lab.bench.measuring import WARM_UP, Answering, Asked
from lab.bench.strategies import STREAMING
from lab.simulator.answers import Setting
from lab.simulator.clairvoyant import plans
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording
from lab.simulator.simulation import simulate

_MOST = 6
_LEAST_TOKENS = 12
"""Of a text that tells what a step takes."""


class Streamed(NamedTuple):
    """How a text came over loopback.

    Attributes:
        first: seconds to its first token.
        rest: seconds from there to its end.
    """

    first: float
    rest: float


def questions(recording: Recording) -> list[int]:
    """Places of those that are asked: the shortest prompts, as what it takes to read them matters least there."""
    texts = recording.texts
    told = [place for place, text in enumerate(texts) if len(text.tokens) >= _LEAST_TOKENS]
    return sorted(told, key=lambda place: len(texts[place].prompt))[:_MOST]


async def stream(here: Answering, asked: Asked, recording: Recording) -> dict[int, Streamed]:
    """Have them streamed, one after the other.

    Args:
        here: on loopback.
        asked: with the questions of the recording.
        recording: of them.

    Raises:
        FlexSpecError: an answer did not come.
    """
    await here.ask(STREAMING, asked.body(WARM_UP, 0))
    found = {}
    for place in questions(recording):
        question = asked.questions[place]
        answer, costs = await here.ask(STREAMING, asked.body(question.text, 1 + place))
        sample = Sample.of_answer(place, question.category, STREAMING, answer, costs)
        first = sample.first or 0.0
        found[place] = Streamed(first, sample.seconds - first)
    return found


def around(
    recording: Recording, times: Measured, streamed: Mapping[int, Streamed], *, seed: int = 0
) -> Measured:
    """The times, and what daemons take beside forwards: of each step, and of each request.

    Both are medians over texts of how much later they came than in simulated time, and never below 0.

    Args:
        recording: of the questions.
        times: of forwards.
        streamed: texts, by their place.
        seed: of the simulation.
    """
    if not streamed:
        return times
    texts = [recording.texts[place] for place in streamed]
    policies = partial(FixedPolicy, plans.fixed_plans()[plans.STREAMING])

    def pairs(times: Measured) -> Sequence[tuple[Streamed, Streamed]]:
        found = simulate(Setting(recording=recording, times=times, seed=seed), policies, texts)
        simulated = [Streamed(one.first, one.seconds - one.first) for one in found]
        return list(zip(streamed.values(), simulated, strict=True))

    late = [
        (real.rest - simulated.rest) / (len(text.tokens) - 1)
        for (real, simulated), text in zip(pairs(times), texts, strict=True)
    ]
    times = msgspec.structs.replace(times, step=times.step + max(0.0, 1000 * median(late)))
    begins = [real.first - simulated.first for real, simulated in pairs(times)]
    return msgspec.structs.replace(times, request=times.request + max(0.0, 1000 * median(begins)))
