"""Every strategy answers every question of a channel, one after the other, on the same piece of it."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from lab.bench.figures import Failed, Sample
from lab.bench.meter import LinkBytes
from lab.bench.questions import Question
from lab.bench.testbed import AnswerFailed
from lab.testbed.link.profiles import LinkPlan

WARM_UP = "Say hello."
DRAWN_S = 3600.0
"""Seconds of a channel over which questions begin; it is drawn as far as it is asked about."""


@dataclass(frozen=True, slots=True)
class BenchChannel:
    """Where strategies are compared.

    Attributes:
        link: name of a profile, or 'loopback'.
        delay_ms: milliseconds by which each forward of the target takes longer.
    """

    link: str
    delay_ms: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.link}, {self.delay_ms:g} ms more a forward" if self.delay_ms else self.link


@dataclass(frozen=True, slots=True)
class Answered:
    """A question that all strategies have been asked.

    Attributes:
        samples: answers, one of each strategy that answered, in that order.
        failed: failures, one of each strategy that did not.
    """

    samples: list[Sample]
    failed: list[Failed]


def channel_start(seed: int, question: int) -> float:
    """Second of the channel at which the question at a place begins, to the millisecond."""
    return round(random.Random(f"offset/{seed}/{question}").uniform(0.0, DRAWN_S), 3)


class Answering(Protocol):
    """Whom questions are asked; see `lab.bench.testbed.BenchTestbed`."""

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], LinkBytes]:
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
            "seed": self.seed * 100_000 + number,
        }

    def order(self, channel: BenchChannel, question: int) -> list[str]:
        """Order in which the strategies answer a question, drawn anew for each."""
        found = list(self.strategies)
        random.Random(f"order/{self.seed}/{channel.title}/{question}").shuffle(found)
        return found


async def ask_all(
    place: Answering,
    asked: Asked,
    channel: BenchChannel,
    plan: LinkPlan | None,
    answered: list[Answered],
    say: Callable[[str], None],
) -> None:
    """Ask all questions on a channel. A failure is a result: nothing is asked again.

    Args:
        place: where all strategies wait to be asked.
        asked: questions, and who answers.
        channel: channel that the place is on.
        plan: plan of its link; None on loopback.
        answered: where each question goes when all strategies have answered or failed.
        say: told how far things are.

    Raises:
        FlexSpecError: a process ended.
    """
    for name in asked.strategies:
        with suppress(AnswerFailed):  # the channel may well have begun with an outage
            await place.ask(name, asked.body(WARM_UP, 0))
    for number, question in enumerate(asked.questions):
        begins = None if plan is None else channel_start(asked.seed, number)
        samples, failed = [], []
        for name in asked.order(channel, number):
            try:
                found = await place.ask(name, asked.body(question.text, 1 + number), begins)
            except AnswerFailed as error:
                failed.append(Failed(number, name, error.reason))
                say(f"  {channel.title}: question {number + 1}: {error.message}")
            else:
                samples.append(Sample.of_answer(number, name, *found))
        answered.append(Answered(samples, failed))
        say(f"  {channel.title}: question {number + 1} of {len(asked.questions)}")


def by_strategy(answered: Sequence[Answered], names: Sequence[str]) -> Mapping[str, list[Sample]]:
    """Answers of each strategy, by question."""
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for one in answered:
        for sample in one.samples:
            found[sample.side].append(sample)
    return found
