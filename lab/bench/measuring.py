"""Every strategy answers every question of a channel, one after the other, on the same piece of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from lab.bench.figures import Failed, Sample
from lab.bench.machine import now
from lab.bench.meter import Costs
from lab.bench.questions import Question
from lab.bench.run_folder import Answered, BenchChannel, RunFolder
from lab.bench.testbed import AnswerFailed
from lab.testbed.link.profiles import LinkPlan

WARM_UP = "Say hello."
DRAWN_S = 3600.0
"""Seconds of a channel without a recording; it is drawn as far as it is asked about and does not repeat."""


def channel_start(plan: LinkPlan, seed: int, question: int) -> float:
    """Second of the channel at which a question begins, to the millisecond; uniform over the longest recording.

    Args:
        plan: plan of the link.
        seed: seed of the run.
        question: place of the question.
    """
    length = plan.recorded_s or DRAWN_S
    return round(random.Random(f"offset/{seed}/{question}").uniform(0.0, length), 3)


class Answering(Protocol):
    """Whom questions are asked; see `lab.bench.testbed.BenchTestbed`."""

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], Costs]:
        """Have a text written."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions, and the strategies that are asked.

    Attributes:
        strategies: names.
        questions: questions in their order.
        tokens: new ones per answer at most.
        temperature: temperature of all answers.
        seed: seed of the run.
    """

    strategies: Sequence[str]
    questions: Sequence[Question]
    tokens: int
    temperature: float
    seed: int

    def body(self, text: str, number: int) -> dict[str, Any]:
        """A request of the chat endpoint; its seed is the same for all strategies."""
        return {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.tokens,
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "seed": self.seed_of(number),
        }

    def seed_of(self, number: int) -> int:
        """Seed of a request; that of question n, counted from 0, is the one of n + 1."""
        return self.seed * 100_000 + number

    def begins(self, plan: LinkPlan | None) -> list[float | None]:
        """Second of a channel at which each question begins; None on loopback."""
        return [
            None if plan is None else channel_start(plan, self.seed, number)
            for number in range(len(self.questions))
        ]

    def order(self, channel: BenchChannel, question: int) -> list[str]:
        """In which the strategies answer a question: drawn anew for each, and the same when a run goes on."""
        found = list(self.strategies)
        random.Random(f"order/{self.seed}/{channel.title}/{question}").shuffle(found)
        return found


def missing(asked: Asked, channel: BenchChannel, kept: RunFolder) -> list[int]:
    """Places of the questions that were not asked on a channel."""
    there = {one.question for one in kept.answered_on(channel)}
    return [place for place in range(len(asked.questions)) if place not in there]


async def ask_missing(
    place: Answering,
    asked: Asked,
    channel: BenchChannel,
    plan: LinkPlan | None,
    kept: RunFolder,
    say: Callable[[str], None],
) -> None:
    """Ask the missing questions of a channel, and keep what came of each.

    Args:
        place: where all strategies wait to be asked.
        asked: questions, and who answers.
        channel: channel that the place is on.
        plan: plan of its link; None on loopback.
        kept: folder of the run.
        say: told how far things are.

    Raises:
        FlexSpecError: a process ended.
    """
    for name in asked.strategies:
        with suppress(AnswerFailed):  # the channel may well have begun with an outage
            await place.ask(name, asked.body(WARM_UP, 0))
    for number in missing(asked, channel, kept):
        question = asked.questions[number]
        begins = None if plan is None else channel_start(plan, asked.seed, number)
        samples, failed = [], []
        for name in asked.order(channel, number):
            try:
                answer, costs = await place.ask(name, asked.body(question.text, 1 + number), begins)
            except AnswerFailed as error:
                failed.append(Failed(number, name, error.reason, error.seconds))
                say(f"  {channel.title}: question {number + 1}: {error.message}")
            else:
                samples.append(Sample.of_answer(number, question.category, name, answer, costs))
        kept.add(Answered(channel, number, begins, samples, failed=failed, **now()))
        say(f"  {channel.title}: question {number + 1} of {len(asked.questions)}")


def by_strategy(answered: Sequence[Answered], names: Sequence[str]) -> Mapping[str, list[Sample]]:
    """Answers of each strategy, by question."""
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for one in answered:
        for sample in one.samples:
            found[sample.side].append(sample)
    return found
