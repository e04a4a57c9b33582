"""All strategies meet the same questions, seeds and pieces of a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import FlexSpecError
from lab.bench.measuring import WARM_UP, Answered, Asked, BenchChannel, ask_all, by_strategy
from lab.bench.meter import Costs
from lab.bench.questions import Question
from lab.bench.testbed import AnswerFailed
from lab.testbed.link.profiles import LinkPlan, built_in

CHANNEL = BenchChannel("4g", 60.0)
PLAN = LinkPlan("4g", built_in().get("4g"))
names = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)


def asked(strategies: Sequence[str], questions: int, seed: int = 0) -> Asked:
    return Asked(strategies, [Question(str(n), "c", f"{n}?") for n in range(questions)], 8, 0.0, seed)


class Told:
    """Answers everything at once and notes what it was asked; ends at the n-th answer that counts.

    Args:
        fails_at: the number of that answer.
        failing: strategy and text of answers that fail without an end of it.

    Attributes:
        asked: strategy, text, seed and second of the channel.
    """

    def __init__(self, fails_at: int | None = None, failing: Collection[tuple[str, str]] = ()) -> None:
        self.asked: list[tuple[str, str, int, float | None]] = []
        self._fails_at = fails_at
        self._failing = failing

    async def ask(
        self, side: str, body: dict[str, Any], at: float | None = None
    ) -> tuple[dict[str, Any], Costs]:
        text = body["messages"][0]["content"]
        if text != WARM_UP:
            if len(self.asked) == self._fails_at:
                raise FlexSpecError("the link is gone")
            self.asked.append((side, text, body["seed"], at))
        if (side, text) in self._failing:
            raise AnswerFailed(side, "503: no link", 2.5)
        own = dict.fromkeys(("proposed", "drafted", "accepted", "rounds", "bytes_up", "bytes_down"), 1)
        usage = {"completion_tokens": 3, "flexspec": own}
        return {"text": "x", "seconds": 1.0, "first": 0.1, "usage": usage}, Costs(1, 2)


def measured(place: Told, wanted: Asked) -> list[Answered]:
    answered: list[Answered] = []
    asyncio.run(ask_all(place, wanted, CHANNEL, PLAN, answered, lambda _text: None))
    return answered


@settings(deadline=None)
@given(names, st.integers(1, 5), st.data())
def test_a_run_that_ends_early_has_kept_the_whole_questions(
    strategies: list[str], questions: int, data: st.DataObject
) -> None:
    fails_at = data.draw(st.integers(0, questions * len(strategies) - 1))
    answered: list[Answered] = []
    ask = ask_all(Told(fails_at), asked(strategies, questions), CHANNEL, PLAN, answered, lambda _text: None)
    with pytest.raises(FlexSpecError):
        asyncio.run(ask)
    kept = list(range(fails_at // len(strategies)))
    for answers in by_strategy(answered, strategies).values():
        assert [one.question for one in answers] == kept


@settings(deadline=None)
@given(names, st.integers(1, 5), st.data())
def test_an_answer_that_fails_is_kept_as_that_and_the_others_are_asked(
    strategies: list[str], questions: int, data: st.DataObject
) -> None:
    everything = [(s, f"{n}?") for n in range(questions) for s in strategies]
    failing = data.draw(st.sets(st.sampled_from(everything)))
    # A channel may begin with an outage.
    place = Told(failing={*failing, *((name, WARM_UP) for name in strategies)})
    told = measured(place, asked(strategies, questions))
    assert {(side, text) for side, text, *_ in place.asked} == set(everything)
    assert {(one.side, f"{one.question}?") for each in told for one in each.failed} == failing
    assert all((one.reason, one.seconds) == ("503: no link", 2.5) for each in told for one in each.failed)
    came = {
        (one.side, f"{one.question}?")
        for answers in by_strategy(told, strategies).values()
        for one in answers
    }
    assert came == set(everything) - failing


@settings(deadline=None)
@given(names, st.integers(1, 5), st.integers(0, 9))
def test_strategies_meet_the_same(strategies: list[str], questions: int, seed: int) -> None:
    place = Told()
    measured(place, asked(strategies, questions, seed))
    for begin in range(0, len(place.asked), len(strategies)):
        turn = place.asked[begin : begin + len(strategies)]
        assert sorted(side for side, *_ in turn) == sorted(strategies)
        assert len({tuple(what) for _side, *what in turn}) == 1
    assert len({what[2] for what in place.asked}) == questions, "seeds"


def test_the_order_is_drawn_for_each_question() -> None:
    wanted = asked("abcdef", 200)
    orders = [wanted.order(CHANNEL, number) for number in range(200)]
    # A fair draw has each of six first 33 times; below 10 once in a million.
    assert all(sum(order[0] == name for order in orders) >= 10 for name in "abcdef")
    assert orders == [wanted.order(CHANNEL, number) for number in range(200)]
