"""Strategies meet the same questions, seeds and pieces of a channel; their figures, and tables that show them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexspec_mq.errors import FlexSpecError
from lab.bench import machine
from lab.bench.figures import Sample, summary
from lab.bench.measuring import WARM_UP, Answered, Asked, BenchChannel, ask_all, by_strategy
from lab.bench.meter import Costs
from lab.bench.questions import Question
from lab.bench.tables import document, markdown
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


times = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12)
factors = st.floats(0.01, 100.0)


def sample(question: int, side: str, took: float, **changes: Any) -> Sample:
    """An answer of ten tokens in four rounds; `changes` replace or add fields."""
    fields: dict[str, Any] = {
        "category": "c",
        "text": "a",
        "first": took / 4,
        "tokens": 10,
        "proposed": 9,
        "drafted": 8,
        "accepted": 6,
        "rounds": 4,
        "bytes_up": 100,
        "bytes_down": 50,
        "costs": Costs(1000, 500, 5, 0.25),
        "energy_j": 3.0,
    }
    return Sample(question=question, side=side, seconds=took, **(fields | changes))


def answers(side: str, took: list[float], **changes: Any) -> list[Sample]:
    return [sample(question, side, seconds, **changes) for question, seconds in enumerate(took)]


@settings(deadline=None)
@given(times, factors, factors)
def test_a_strategy_that_takes_so_many_times_as_long_has_that_share(
    took: list[float], slower: float, joules: float
) -> None:
    ours = answers("x", took, energy_j=joules, costs=Costs(300, 0))
    theirs = answers("traditional", [slower * one for one in took], energy_j=1.0, costs=Costs(500, 500))
    found = summary({"x": ours, "traditional": theirs[::-1]}, 0)["x"]["of_traditional"]
    for key, share in (
        ("total", 1 / slower),
        ("tokens_per_s", slower),
        ("bytes", 0.3),
        ("energy_j_per_100", joules),
    ):
        value, low, high = found[key]
        assert value == pytest.approx(share)
        # However questions are drawn again, each brings both of its answers along.
        assert (low, high) == (pytest.approx((share, share)) if len(took) >= 5 else (None, None))


@settings(deadline=None)
@given(times, factors, st.data())
def test_shares_are_over_questions_that_both_answered(
    took: list[float], slower: float, data: st.DataObject
) -> None:
    ours = answers("x", took)
    theirs = answers("streaming", [slower * one for one in took])
    places = st.sets(st.integers(0, len(took) - 1))
    ours_failed, theirs_failed = data.draw(places), data.draw(places)
    found = summary(
        {
            "x": [one for one in ours if one.question not in ours_failed],
            "streaming": [one for one in theirs if one.question not in theirs_failed],
        },
        0,
    )
    if len(ours_failed | theirs_failed) == len(took):
        assert "of_streaming" not in found.get("x", {})
        return
    assert found["x"]["of_streaming"]["total"][0] == pytest.approx(1 / slower)
    assert found["x"]["answers"] == len(took) - len(ours_failed)


@settings(deadline=None)
@given(times)
def test_figures_of_an_answer(took: list[float]) -> None:
    found = summary({"x": answers("x", took)}, 0)["x"]
    assert found["mean_s"][0] == pytest.approx(sum(took) / len(took))
    assert found["forwards_per_token"] == 0.5
    assert found["worker_s_per_token"] == pytest.approx(0.025)
    assert found["energy_j_per_100"][0] == pytest.approx(30)
    assert found["bytes"][0] == 1500
    low, high = found["mean_s"][1:]
    assert (low is None) == (len(took) < 5)
    if low is not None:
        assert min(took) * 0.999 <= low <= found["mean_s"][0] * 1.001 <= high * 1.002 <= max(took) * 1.003


def test_what_is_not_known_is_not_told() -> None:
    took = [1.0] * 6
    loopback = answers("x", took, costs=Costs(None, None), energy_j=None)
    mixed = [*answers("y", took[:5]), sample(5, "y", 1.0, energy_j=None)]
    found = summary({"x": loopback, "y": mixed, "streaming": answers("streaming", took)}, 0)
    assert found["x"]["bytes"][0] == 150, "payload"
    assert found["x"]["energy_j_per_100"] is found["y"]["energy_j_per_100"] is None
    assert found["y"]["of_streaming"]["energy_j_per_100"] is None
    assert "of_streaming" not in found["streaming"]
    silent = summary({"x": answers("x", took, tokens=0, first=None)}, 0)["x"]
    assert silent["forwards_per_token"] is silent["energy_j_per_100"] is silent["median_first_s"] is None
    assert summary({"x": []}, 0) == {}
    free = answers("traditional", took, costs=Costs(0, 0), energy_j=0.0)
    shares = summary({"x": answers("x", took), "traditional": free}, 0)["x"]["of_traditional"]
    assert shares["bytes"] is shares["energy_j_per_100"] is None, "nothing is a share of nothing"
    silent = Costs(None, None, forwards=None, worker_s=None)
    server = answers("server", took, costs=silent, rounds=0, drafted=0, bytes_up=None, energy_j=None)
    told = summary({"server": server}, 0, ["server"])["server"]
    unknown = ("forwards_per_token", "worker_s_per_token", "bytes", "ip_up", "acceptance", "tokens_per_round")
    assert [told[name] for name in unknown] == [None] * len(unknown)


def results(strategies: tuple[str, ...] = ("traditional", "streaming", "on-device")) -> dict[str, Any]:
    took = [1.0, 2.0, 3.0, 4.0, 5.0]
    channels = []
    for number, link in enumerate(("4g", "loopback")):
        costs = Costs(1000, 500, 5, 0.25) if link == "4g" else Costs(None, None, 5, 0.25)
        found = {
            name: answers(name, [(1 + place + number) * one for one in took], costs=costs)
            for place, name in enumerate(strategies)
        }
        channels.append(
            {
                "title": link,
                "failed": [],
                "differ": ["q7"] if number else [],
                "at": [f"2026-11-2{number} 10:00"],
                "load": [1.5],
                "strategies": summary(found, 0, ["on-device"]),
            }
        )
    run = {
        "target": "t",
        "draft": "d",
        "questions": 5,
        "tokens": 64,
        "temperature": 0.0,
        "seed": 11,
        "guesses": 5,
        "strategies": list(strategies),
        "energy": {"device": "phone-4g", "radio": "4g"},
        "machine": machine.machine(),
        "versions": {"flexspec-mq": "0.1.0"},
    }
    read: dict[str, Any] = json.loads(json.dumps({"run": run, "channels": channels}))
    return read


def test_tables_hold_every_strategy_of_every_channel_and_what_the_run_was() -> None:
    text = document(results())
    for said in (
        "seed 11",
        "phone-4g by 4g",
        "modelled, not measured",
        "load 1.5.",
        "**Texts differ**",
        "q7",
    ):
        assert said in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block[0]
    # Two channels with their figures and two shares each, seconds by channel, what the strategies are.
    assert len(blocks) == 2 * 3 + 2
    assert re.match(r"\| `traditional` \| 3\.00 \[\d\.\d\d, \d\.\d\d\] ", blocks[0][2])
    assert "IP B up" in blocks[0][0]
    assert "IP B up" not in blocks[3][0], "loopback has none"
    assert "`on-device` *" in blocks[0][4]
    assert markdown(["", "a"], [["x", "1"]]) == "|  | a |\n| --- | ---: |\n| x | 1 |"
