"""Strategies meet the same questions, seeds and pieces of a channel; their figures, and tables that show them."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import FlexSpecError
from lab.bench.figures import Sample, summary, tables
from lab.bench.measuring import WARM_UP, Answered, Asked, BenchChannel, ask_all, by_strategy
from lab.bench.meter import LinkBytes
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
    ) -> tuple[dict[str, Any], LinkBytes]:
        text = body["messages"][0]["content"]
        if text != WARM_UP:
            if len(self.asked) == self._fails_at:
                raise FlexSpecError("the link is gone")
            self.asked.append((side, text, body["seed"], at))
        if (side, text) in self._failing:
            raise AnswerFailed(side, "503: no link")
        usage = {"completion_tokens": 3, "flexspec": dict.fromkeys(("drafted", "accepted", "rounds"), 1)}
        return {"text": "x", "seconds": 1.0, "first": 0.1, "usage": usage}, (1, 2)


def measured(place: Told, wanted: Asked) -> list[Answered]:
    answered: list[Answered] = []
    asyncio.run(ask_all(place, wanted, CHANNEL, PLAN, answered, lambda _text: None))
    return answered


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
    assert all(one.reason == "503: no link" for each in told for one in each.failed)
    came = {
        (one.side, f"{one.question}?")
        for answers in by_strategy(told, strategies).values()
        for one in answers
    }
    assert came == set(everything) - failing


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
        "text": "a",
        "first": took / 4,
        "tokens": 10,
        "drafted": 8,
        "accepted": 6,
        "rounds": 4,
        "ip_up": 1000,
        "ip_down": 500,
        "energy_j": 3.0,
    }
    return Sample(question=question, side=side, seconds=took, **(fields | changes))


def answers(side: str, took: list[float], **changes: Any) -> list[Sample]:
    return [sample(question, side, seconds, **changes) for question, seconds in enumerate(took)]


@given(times, factors, factors)
def test_a_strategy_that_takes_so_many_times_as_long_has_that_share(
    took: list[float], slower: float, joules: float
) -> None:
    ours = answers("x", took, energy_j=joules, ip_up=300, ip_down=0)
    slow = [slower * one for one in took]
    theirs = answers("traditional", slow, energy_j=1.0, ip_up=500, ip_down=500)
    found = summary({"x": ours, "traditional": theirs[::-1]}, 0)["x"]["of_traditional"]
    for key, share in (("mean_s", 1 / slower), ("ip_bytes", 0.3), ("energy_j_per_100", joules)):
        value, low, high = found[key]
        assert value == pytest.approx(share)
        # However questions are drawn again, each brings both of its answers along.
        assert (low, high) == (pytest.approx((share, share)) if len(took) >= 5 else (None, None))


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
    assert found["x"]["of_streaming"]["mean_s"][0] == pytest.approx(1 / slower)
    assert found["x"]["answers"] == len(took) - len(ours_failed)


@given(times)
def test_figures_of_an_answer(took: list[float]) -> None:
    found = summary({"x": answers("x", took)}, 0)["x"]
    assert found["mean_s"][0] == pytest.approx(sum(took) / len(took))
    assert (found["tokens_per_round"], found["acceptance"]) == (2.5, 0.75)
    assert found["energy_j_per_100"][0] == pytest.approx(30)
    assert found["ip_bytes"][0] == 1500
    low, high = found["mean_s"][1:]
    assert (low is None) == (len(took) < 5)
    if low is not None:
        assert min(took) * 0.999 <= low <= found["mean_s"][0] * 1.001 <= high * 1.002 <= max(took) * 1.003


NOT_KNOWN: dict[str, Any] = {"ip_up": None, "ip_down": None, "energy_j": None}


def test_what_is_not_known_is_not_told() -> None:
    took = [1.0] * 6
    loopback = answers("x", took, **NOT_KNOWN)
    mixed = [*answers("y", took[:5]), sample(5, "y", 1.0, energy_j=None)]
    found = summary({"x": loopback, "y": mixed, "streaming": answers("streaming", took)}, 0)
    assert found["x"]["ip_bytes"] is found["x"]["energy_j_per_100"] is found["y"]["energy_j_per_100"] is None
    assert found["y"]["of_streaming"]["energy_j_per_100"] is None
    assert "of_streaming" not in found["streaming"]
    silent = summary({"x": answers("x", took, tokens=0, first=None)}, 0)["x"]
    assert silent["energy_j_per_100"] is silent["median_first_s"] is silent["forced"] is None
    assert summary({"x": []}, 0) == {}
    free = answers("traditional", took, ip_up=0, ip_down=0, energy_j=0.0)
    shares = summary({"x": answers("x", took), "traditional": free}, 0)["x"]["of_traditional"]
    assert shares["ip_bytes"] is shares["energy_j_per_100"] is None, "nothing is a share of nothing"
    told = summary({"server": answers("server", took, rounds=0, drafted=0)}, 0, ["server"])["server"]
    assert told["acceptance"] is told["tokens_per_round"] is None


def test_tables_hold_every_strategy_of_a_channel() -> None:
    took = [1.0, 2.0, 3.0, 4.0, 5.0]
    names = "traditional", "streaming", "server"
    found = {
        name: answers(name, [(1 + place) * one for one in took], **(NOT_KNOWN if name == "server" else {}))
        for place, name in enumerate(names)
    }
    failed = {"side": "fixed", "question": 3, "name": "q3", "reason": "503: no link"}
    channel = {
        "title": "4g",
        "failed": [failed],
        "differ": ["q7"],
        "strategies": summary(found, 0, ["server"]),
    }
    text = tables(channel)
    figures, by_traditional, by_streaming, by_server = (
        block for block in text.split("\n\n") if "---" in block
    )
    rows = {line.split("  ")[0]: line.split() for line in figures.splitlines()[2:]}
    assert list(rows) == ["traditional", "streaming", "server *", "fixed"]
    assert rows["traditional"][1:4] == ["5", "0", "3.00"]
    assert rows["fixed"][1:] == ["0", "1", *["-"] * 7]
    assert rows["server *"][-2:] == ["-", "-"]
    assert [line.split()[0] for line in by_traditional.splitlines()[2:]] == ["streaming", "server"]
    assert "0.5 [0.5, 0.5]" in by_streaming
    assert "0.333 [0.333, 0.333]" in by_server
    for said in (
        "# 4g",
        "own, which is not compared",
        "failed: fixed, question q3: 503: no link",
        "DIFFER at questions q7",
    ):
        assert said in text
