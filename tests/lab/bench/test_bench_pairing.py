"""All strategies meet the same questions, seeds and pieces of a channel, also when a run was ended between."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import FlexSpecError
from lab.bench.measuring import WARM_UP, Asked, ask_missing, by_strategy, missing
from lab.bench.meter import Costs
from lab.bench.questions import Question
from lab.bench.run_folder import BenchChannel, RunFolder, folder_of_run
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
        return {"text": "x", "seconds": 1.0, "first": 0.1, "usage": usage}, Costs(1, 2, 0, 0)


def measured(place: Told, wanted: Asked, kept: RunFolder) -> None:
    asyncio.run(ask_missing(place, wanted, CHANNEL, PLAN, kept, lambda _text: None))


@settings(deadline=None)
@given(names, st.integers(1, 5), st.integers(0, 9), st.data())
def test_a_run_that_was_ended_asks_what_it_would_have_asked(
    strategies: list[str], questions: int, seed: int, data: st.DataObject
) -> None:
    wanted = asked(strategies, questions, seed)
    fails_at = data.draw(st.integers(0, questions * len(strategies) - 1))
    with TemporaryDirectory() as name:
        whole, ended, after = Told(), Told(fails_at), Told()
        with folder_of_run(Path(name) / "whole", {}) as kept:
            measured(whole, wanted, kept)
            assert missing(wanted, CHANNEL, kept) == []
        with folder_of_run(Path(name) / "ended", {}) as kept, pytest.raises(FlexSpecError):
            measured(ended, wanted, kept)
        done = fails_at // len(strategies)
        with folder_of_run(Path(name) / "ended", {}) as kept:
            assert missing(wanted, CHANNEL, kept) == list(range(done, questions))
            assert missing(wanted, BenchChannel("4g"), kept) == list(range(questions)), "another channel"
            measured(after, wanted, kept)
            found = by_strategy(kept.answered_on(CHANNEL), strategies)
        assert [*ended.asked[: done * len(strategies)], *after.asked] == whole.asked
        assert {side: [one.question for one in answers] for side, answers in found.items()} == {
            one: list(range(questions)) for one in strategies
        }


@settings(deadline=None)
@given(names, st.integers(1, 5), st.data())
def test_an_answer_that_fails_is_kept_as_that_and_the_others_are_asked(
    strategies: list[str], questions: int, data: st.DataObject
) -> None:
    wanted, everything = (
        asked(strategies, questions),
        [(s, f"{n}?") for n in range(questions) for s in strategies],
    )
    failing = data.draw(st.sets(st.sampled_from(everything)))
    # A channel may begin with an outage.
    place = Told(failing={*failing, *((name, WARM_UP) for name in strategies)})
    with TemporaryDirectory() as name:
        with folder_of_run(Path(name), {}) as kept:
            measured(place, wanted, kept)
        assert {(side, text) for side, text, *_ in place.asked} == set(everything)
        with folder_of_run(Path(name), {}) as kept:
            assert missing(wanted, CHANNEL, kept) == [], "a failure is a result"
            told = kept.answered_on(CHANNEL)
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
    with TemporaryDirectory() as name, folder_of_run(Path(name) / "run", {}) as kept:
        measured(place, asked(strategies, questions, seed), kept)
    for begin in range(0, len(place.asked), len(strategies)):
        turn = place.asked[begin : begin + len(strategies)]
        assert sorted(side for side, *_ in turn) == sorted(strategies)
        assert len({tuple(what) for _side, *what in turn}) == 1
    assert len({what[2] for what in place.asked}) == questions, "seeds"
