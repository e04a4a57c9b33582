"""What somebody who knows everything could reach: a bound that nothing undercuts, and schedules that come near it."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import msgspec
import pytest

from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from lab.policy_training.drawn_links import drawn_link
from lab.policy_training.episodes import drawn_episode
from lab.simulator.accelerator import Modelled
from lab.simulator.answers import LIKE_OURS, Policies, Setting
from lab.simulator.clairvoyant.arrivals import Arrivals
from lab.simulator.clairvoyant.bound import ClairvoyantBound
from lab.simulator.clairvoyant.matches import Match, matches
from lab.simulator.clairvoyant.search import HOLDS, search
from lab.simulator.recording import RecordedText
from lab.simulator.simulation import simulate
from lab.testbed.link.impairment import Drop, Impairment
from lab.testbed.link.profiles import WAYS, LinkPlan, built_in
from tests.lab.simulator.recordings import TIMES, made

RECORDING = made(prompt=40)
SETTING = Setting(recording=RECORDING, times=TIMES)
STREAMING = Plan(0, 1, 1, 256)


def link(name: str) -> LinkPlan:
    return LinkPlan(name, built_in().get(name), 3)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_undercuts_the_bound(seed: int) -> None:
    rng = random.Random(f"bound {seed}")
    episode = drawn_episode(seed)
    worker = replace(episode.setting.worker, rationed=rng.random() < 0.5, reads=rng.random() < 0.8)
    worker = replace(worker, lookup=worker.lookup or seed % 2 == 0)
    setting = replace(episode.setting, worker=worker, others=rng.choice((0, 0, 2)))
    bound = ClairvoyantBound(setting)
    fixed = Plan(
        rng.choice((0, 2, 4, 8)), rng.choice((1, 3)), rng.choice((0, 2)), rng.choice((0, 64)), 0.0, rng.choice((0, 8))
    )  # fmt: skip
    for policy in (FixedPolicy, POLICIES["threshold"], POLICIES["bandit"]):
        begins = [rng.uniform(0.0, 300.0) for _ in episode.texts]
        answers = simulate(setting, partial(policy, fixed), episode.texts, begins)
        for text, at, answer in zip(episode.texts, begins, answers, strict=True):
            assert answer.problem == ""
            assert 0.0 < bound.seconds(text, at) <= answer.seconds


def test_nothing_undercuts_the_bound_of_an_accelerator() -> None:
    setting = replace(SETTING, times=Modelled(), link=link("4g"))
    bound = ClairvoyantBound(setting)
    plan = Plan(4, 2, 1, 8, 0.0, 8)
    for policy in ("placement", "threshold"):
        found = simulate(setting, partial(POLICIES[policy], plan), begins_s=[9.0 * n for n in range(6)])
        for number, (text, answer) in enumerate(zip(RECORDING.texts, found, strict=True)):
            assert bound.seconds(text, 9.0 * number) <= answer.seconds


def test_the_bound_is_reached_where_there_is_nothing_to_choose() -> None:
    setting = replace(SETTING, drafts=False, worker=replace(LIKE_OURS, drafts=False, lookup=False))
    bound = ClairvoyantBound(setting)
    answers = simulate(setting, lambda: FixedPolicy(STREAMING))
    # The first prompt is read slowly, as nothing is known of the worker yet.
    for text, answer in list(zip(RECORDING.texts, answers, strict=True))[1:]:
        assert answer.seconds == pytest.approx(bound.seconds(text), rel=0.01)


def test_a_quick_device_that_is_always_right_needs_one_forward_more() -> None:
    recording = made(texts=2, right=1.0)
    setting = replace(SETTING, recording=recording, worker=replace(LIKE_OURS, drafts=False, lookup=False))
    # One forward decides the whole text, but for the one that answers the open, which has no draft yet.
    setting = replace(setting, times=msgspec.structs.replace(TIMES, device=TIMES.device.slower(1e-3)))
    bound = ClairvoyantBound(setting)
    text = recording.texts[0]
    (answer,) = simulate(setting, lambda: FixedPolicy(Plan(16, 2, 1, 0)), [text])
    assert bound.seconds(text) <= answer.seconds < bound.seconds(text) + 1.1 * TIMES.rows[0](1) / 1000


def test_what_makes_answers_slower_raises_the_bound() -> None:
    def seconds(setting: Setting) -> float:
        bound = ClairvoyantBound(setting)
        return sum(bound.seconds(text, 5.0) for text in setting.recording.texts)

    near = seconds(SETTING)
    assert (
        near
        < seconds(replace(SETTING, link=link("4g")))
        < seconds(replace(SETTING, link=link("satellite-geo")))
    )
    assert near < seconds(replace(SETTING, times=msgspec.structs.replace(TIMES, delay=60.0)))
    looks_up = seconds(replace(SETTING, worker=replace(LIKE_OURS, drafts=False)))
    assert near < looks_up <= seconds(replace(SETTING, worker=replace(LIKE_OURS, drafts=False, lookup=False)))
    assert near < seconds(replace(SETTING, recording=made(prompt=40, right=0.3)))
    assert near < seconds(replace(SETTING, recording=made(prompt=600)))


@pytest.mark.parametrize("seed", range(20))
def test_no_packet_arrives_before_the_earliest_time(seed: int) -> None:
    rng = random.Random(seed)
    plan = link("tunnel") if seed < 5 else drawn_link(rng)
    begins = rng.uniform(0.0, 50.0)
    for way in WAYS:
        earliest = Arrivals(plan, way, begins)
        impairment = Impairment(msgspec.structs.replace(plan, begins_s=begins), way)
        time = before = 0.0
        for _ in range(300):
            out = impairment.arrive(begins + time, 100)
            there = earliest.earliest(time)
            assert before <= there
            assert isinstance(out, Drop) or begins + there <= out + 1e-9
            before, time = there, time + rng.expovariate(4.0)


def test_loopback_takes_no_time() -> None:
    assert Arrivals(None, "up").earliest(3.0) == 3.0


def test_matches_tell_who_can_be_right() -> None:
    prompt, said = (5, 6, 7, 8, 9), (1, 6, 7, 8, 2, 3)
    proposals = ((1, 0.9), (0, 0.9), (0, 0.9), (8, 0.9), (2, 0.9), (0, 0.9))
    text = RecordedText(prompt, 0.0, 1, said, proposals)
    # After 6 the prompt goes on with 7, and after 7 with 8; what follows 1 and 2 nothing has said before.
    assert matches(text) == (
        Match.MODEL, Match.NOBODY, Match.LOOKUP, Match.LOOKUP, Match.MODEL, Match.NOBODY
    )  # fmt: skip


def test_a_search_is_no_slower_than_the_best_plan_and_no_faster_than_the_bound() -> None:
    setting = replace(SETTING, link=link("4g"))
    plans = [STREAMING, Plan(4, 1, 1), Plan(4, 2, 1, 64), Plan(0, 1, 1, 64, 0.0, 8)]
    first, text = RECORDING.texts[0], RECORDING.texts[2]

    def seconds(policy: Policies) -> float:
        return simulate(setting, policy, [first, text], [4.0, 4.0])[1].seconds

    found = search(setting, text, 4.0, plans)
    assert found.held == pytest.approx(min(seconds(partial(FixedPolicy, plan)) for plan in plans))
    assert ClairvoyantBound(setting).seconds(text, 4.0) <= found.seconds <= found.held
    assert len(found.schedule.plans) == -(-len(text.tokens) // HOLDS)
    assert set(found.schedule.plans) <= set(plans)
    assert seconds(lambda: found.schedule) == pytest.approx(found.seconds)
