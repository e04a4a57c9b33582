"""Learned policies: what they may never choose, what their weights are, and that time has no unit for them."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.rl import (
    ACTIONS,
    FEATURES,
    MACRO,
    WAITING,
    Network,
    RlPolicy,
    features,
    known,
    network_of,
    read_network,
)
from flexspec_mq.errors import ModelError
from lab.policy_training.learner import network_text
from tests.controller.observed import BASE, BASES, NEAR, but, observations


def scored(*best: int) -> Network:
    """A network that scores actions in this order, whatever it is shown."""
    bias = tuple(float(len(best) - best.index(one)) if one in best else 0.0 for one in range(len(ACTIONS)))
    return Network(((0.0,) * (len(FEATURES) + 1),), ((0.0,) * len(ACTIONS),), bias)


@pytest.mark.parametrize("make", [RlPolicy, ClosedFormPolicy])
@given(seen=st.lists(observations(), max_size=6), base=BASES)
def test_plans_keep_to_what_the_user_allows(
    make: Callable[[Plan], Policy], seen: list[Observation], base: Plan
) -> None:
    base = replace(base, qos=1)
    policy = make(base)
    for one in seen:
        plan = policy.plan(one)
        assert plan.qos == 1
        assert plan.worker_draft in (0, base.worker_draft)
        assert plan.ahead or not plan.worker_draft or plan == base
        assert not plan.draft_length or base.draft_length
        assert not plan.ahead or base.ahead
        assert plan.ahead or plan.draft_length or not base.draft_length
        if known(one):
            assert plan.draft_length <= (one.worker.granted or 16)
            assert len(features(one)) == len(FEATURES)
            assert all(map(math.isfinite, features(one)))


def slower(seen: Observation, by: float) -> Observation:
    """The same with all times so much longer."""
    names = ("rtt", "rtt_deviation", "forward", "forward_deviation", "draft_time", "row_cost", "queue")
    times = {name: getattr(seen, name) for name in names}
    return but(seen, **{name: time * by for name, time in times.items() if time is not None})


@given(st.floats(0.01, 100.0))
def test_what_counts_is_how_times_compare(by: float) -> None:
    seen = but(NEAR, worker_per_verdict=2.5, queue=0.001)
    assert features(slower(seen, by)) == pytest.approx(features(seen))


def test_the_best_action_that_is_allowed_is_planned() -> None:
    wide = next(number for number, action in enumerate(ACTIONS) if action.way.window == 3)
    network = scored(wide, WAITING[1])
    plan = RlPolicy(BASE, network=network).plan(NEAR)
    assert (plan.draft_length, plan.in_flight) == (ACTIONS[wide].way.length, 3)
    plan = RlPolicy(replace(BASE, ahead=0), network=network).plan(NEAR)
    assert plan == replace(BASE, ahead=0, worker_draft=0, draft_length=ACTIONS[WAITING[1]].way.length)


def test_an_action_that_lets_the_worker_draft_does() -> None:
    for number, action in enumerate(ACTIONS):
        plan = RlPolicy(BASE, network=scored(number)).plan(but(NEAR, drafted=1))
        assert plan.worker_draft == (8 if action.worker else 0)
        assert plan.draft_length == action.way.length
        assert (plan.ahead > 0) == action.way.ahead


def test_an_action_holds_for_some_tokens() -> None:
    class Turns(RlPolicy):
        turn = 0

        def act(self, seen: Observation, able: object) -> int:  # noqa: ARG002
            self.turn += 1
            return WAITING[self.turn % 2]

    policy = Turns(BASE)
    for committed in (0, 1, MACRO - 1, MACRO, MACRO + 1, 2 * MACRO - 1, 2 * MACRO + 1, 3 * MACRO):
        policy.plan(but(NEAR, committed=committed))
    assert policy.turn == 3


def test_an_action_stays_while_another_scores_hardly_higher() -> None:
    first, other = 0.0, 0.0

    class Changes(Network):
        def scores(self, numbers: object) -> list[float]:  # noqa: ARG002
            return [first, other, *(-9.0,) * (len(ACTIONS) - 2)]

    policy = RlPolicy(BASE, network=Changes((), (), ()))
    first = 1.0
    assert policy.act(NEAR, range(len(ACTIONS))) == 0
    policy._action, other = 0, 1.05
    assert policy.act(NEAR, range(len(ACTIONS))) == 0
    other = 1.2
    assert policy.act(NEAR, range(len(ACTIONS))) == 1


def test_scores_are_what_two_layers_give() -> None:
    rng = random.Random(1)
    inputs = [rng.gauss(0, 1) for _ in FEATURES]
    hidden = tuple(tuple(rng.gauss(0, 1) for _ in range(len(FEATURES) + 1)) for _ in range(5))
    out = tuple(tuple(rng.gauss(0, 1) for _ in ACTIONS) for _ in range(5))
    bias = tuple(rng.gauss(0, 1) for _ in ACTIONS)
    units = [max(0.0, sum(w * x for w, x in zip(row, [*inputs, 1.0], strict=True))) for row in hidden]
    assert 0.0 in units
    expected = [
        bias[one] + sum(unit * row[one] for unit, row in zip(units, out, strict=True))
        for one in range(len(ACTIONS))
    ]
    network = Network(hidden, out, bias)
    assert network.scores(inputs) == pytest.approx(expected)
    again = read_network(network_text(network), "again").scores(inputs)
    assert again == pytest.approx(expected, rel=0.01, abs=0.01)


def test_what_holds_no_weights_or_those_for_something_else_is_refused() -> None:
    for text in ("{", "[]", '{"form":1}'):
        with pytest.raises(ModelError, match=r"w\.json holds no weights"):
            read_network(text, "w.json")
    ours = json.loads(network_text(network_of()))
    changes: list[dict[str, object]] = [
        {"form": 2}, {"features": ["other"]}, {"actions": []}, {"bias": [1.0]}, {"hidden": [[1.0]]}
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(ModelError, match="other features or actions"):
            read_network(json.dumps(ours | change), "w.json")


def test_weights_of_a_file_take_the_place_of_those_that_ship(tmp_path: Path) -> None:
    weights = tmp_path / "one.json"
    number = next(n for n, action in enumerate(ACTIONS) if action.way.window == 3)
    weights.write_text(network_text(scored(number)))
    assert RlPolicy(BASE, network=network_of(weights)).plan(NEAR).in_flight == 3
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(ModelError, match=r"other\.json"):
        network_of(other)
    with pytest.raises(ModelError, match="cannot be read"):
        network_of(tmp_path / "none.json")
