"""Where the time of a text goes and how it is drafted, in sentences."""

from typing import Any

import pytest

from edge_node.api.views import members
from edge_node.api.views.sentences import Watched, plan_words
from schemas.node import TextFigures, TextView
from schemas.plan import PlanAlternative, PlanEstimate, PlanStatus, VersionPlan
from schemas.status import WorkerStatus


def plan(**changes: Any) -> PlanStatus:
    base = {
        "policy": "fixed", "does": "", "draft_length": 4, "in_flight": 2, "ahead": 0, "worker_draft": 0, "qos": 1,
    }  # fmt: skip
    return PlanStatus(confidence_threshold=0.0, **{**base, **changes})


def figures(**changes: Any) -> TextFigures:
    base: dict[str, Any] = {
        "prompt_tokens": 30, "tokens": 40, "rounds": 11, "seconds": 4.0, "first_token": 0.5, "rtt_ms": 200.0,
        "polls": 0, "reopens": 0, "worker": "w1", "plan": plan(),
        "accepted": 20, "looked_up": 6, "worker_accepted": 5, "forced": 1,
    }  # fmt: skip
    return TextFigures(**{**base, **changes})


def version(**estimates: float) -> VersionPlan:
    known = {name: PlanEstimate(value=value, unit="ms") for name, value in estimates.items()}
    return VersionPlan(
        version="base", under_way=True, age_s=None, plan=plan(), words="", alternatives=[], estimates=known
    )


def test_a_worker_that_is_silent_for_more_than_a_minute_is_said_to_be() -> None:
    status = WorkerStatus(state="online", epoch=1, at=0.0, worker="w", version="base")
    told = [members.worker(age, status).facts[-1] for age in (60.0, 61.0)]
    assert [words.startswith("silent for") for words in told] == [False, True]


def test_rates_and_shares_come_from_the_figures() -> None:
    told, _ = Watched().look(TextView(id="1", state="writing", figures=figures()), version(forward=35.0), 0.0)
    assert told.written == {"device": 14, "lookup": 6, "worker": 5, "grammar": 1, "target": 14}
    assert told.tokens_per_second == pytest.approx(40 / 3.5)
    assert told.tokens_per_round == pytest.approx(40 / 11)
    assert list(told.parts.items()) == [("to the worker and back", 200.0), ("the worker computes", 35.0)]


WAITS = "Nothing is confirmed now: waiting for the broker since 0 s."
NETWORK = "Most of it is the way to the worker and back, so a better network would help."
COMPUTING = "The longest part that is known is the worker's computing, so a faster worker would help."
READING = "The first token took 3.0 s: the question had to be read."


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ({"state": "queued"}, ["Nothing is written now: waiting for its turn since 0 s."]),
        (
            {"state": "waiting", "why": "the broker", "figures": figures(provisional=7)},
            [WAITS, "The draft has written 7 tokens alone."],
        ),
        ({"state": "over", "why": "no worker"}, ["The text ended by an error: no worker."]),
        ({"state": "writing"}, ["The question was just asked."]),
        ({"figures": figures(first_token=None)}, ["The large model reads the question, 30 tokens."]),
        (
            {"figures": figures()},
            ["A verdict comes each 350 ms and brings 3.6 tokens; up to 2 are under way.", NETWORK],
        ),
        (
            {"figures": figures(plan=plan(ahead=8))},
            ["The worker does not wait for this device: it sends 3.6 tokens each 350 ms.", COMPUTING],
        ),
        (
            {"figures": figures(rounds=1, reopens=1)},
            [
                "The first answer of the worker brought 40.0 tokens.",
                NETWORK,
                "The node looked for another worker 1 time.",
            ],
        ),
        (
            {"state": "over", "figures": figures(plan=plan(in_flight=1), first_token=3.0, polls=2)},
            [
                "A round takes 100 ms and brings 3.6 tokens.",
                NETWORK,
                READING,
                "The node asked again 2 times after silence.",
            ],
        ),
    ],
)
def test_where_the_time_goes(view: dict[str, Any], said: list[str]) -> None:
    told, _ = Watched().look(TextView(**{"id": "1", "state": "writing", **view}), version(forward=35.0), 0.0)
    assert told.time == " ".join(said)


def test_a_wait_is_told_as_long_as_it_lasts_and_when_it_is_over() -> None:
    watched, waits = Watched(), TextView(id="1", state="waiting", why="the broker", figures=figures(polls=1))
    _, before = watched.look(waits, None, 10.0)
    told, gist = watched.look(waits, None, 10.4)
    assert gist == before
    told, gist = watched.look(waits, None, 12.0)
    assert gist != before
    assert "since 2 s" in told.time
    told, _ = watched.look(TextView(id="1", state="writing", figures=figures(seconds=6.5)), None, 13.0)
    # The outage first, and the pace without it.
    assert told.time.startswith("It waited 3.0 s for the broker. A verdict comes each 300 ms")
    over = watched.look(
        TextView(id="1", state="over", reason="stop", figures=figures(seconds=7.0)), None, 14.0
    )
    assert watched.look(TextView(id="1", state="over", reason="stop"), None, 20.0) == over


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (plan(), ["4 tokens at a time, up to 2 batches under way.", "The worker waits for each of them."]),
        (
            plan(draft_length=1, in_flight=1, ahead=8, worker_draft=8),
            ["1 token at a time.", "writes on", "if it has"],
        ),
        (plan(draft_length=0), ["drafts nothing.", "decides one token after another."]),
    ],
)
def test_a_plan_in_words(made: PlanStatus, said: list[str]) -> None:
    words = plan_words(made, [], [], None)
    assert all(part in words for part in said)


def test_a_choice_in_words() -> None:
    ways = [
        PlanAlternative(name="barred", ms_per_token=10.0, chosen=False, allowed=False),
        PlanAlternative(name="a", ms_per_token=20.0, chosen=True),
        PlanAlternative(name="b", ms_per_token=32.0, chosen=False),
    ]
    words = plan_words(plan(), ways, [], 0.75)
    assert "It is expected to take 20 ms a token; the next best way takes 32 ms." in words
    assert words.endswith("Lately 75.0 % of what the draft wrote alone was confirmed.")
    ways[1], ways[2] = (
        PlanAlternative(name="b", ms_per_token=32.0, chosen=True),
        PlanAlternative(name="a", ms_per_token=30.0, chosen=False),
    )
    assert "another way, which is not better enough to change, takes 30 ms." in plan_words(
        plan(), ways, [], None
    )
