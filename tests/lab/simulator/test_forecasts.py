"""The closed form beside the simulator: its forecast of plans, and what it does with pairs that nobody trained."""

from dataclasses import replace
from functools import partial
from statistics import median

import pytest

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.controller.round_model import NOBODY, Drafting, RoundTimes, drafting
from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.cost import DraftTimes, Times
from lab.simulator.recording import SimulatedText
from lab.simulator.simulation import simulate
from lab.simulator.worker import WorkerKind
from lab.testbed.link.profiles import Figure, LinkPlan, Profile, State, WayFigures
from tests.lab.simulator.recordings import random_recording

RIGHT = 0.7
RECORDING = random_recording(2, RIGHT, seed=5, limit=240, ends=False)
ROW, BROKER = 0.9, 0.25
PLANS = (
    NOBODY,
    Drafting(2, 1, False),
    Drafting(4, 1, False),
    Drafting(8, 1, False),
    Drafting(4, 1, True),
    Drafting(2, 2, True),
    Drafting(4, 2, True),
    Drafting(4, 3, True),
    Drafting(8, 2, True),
)


def steady(round_trip_ms: float) -> LinkPlan:
    """A link with a delay and nothing else."""

    def figure(value: float) -> Figure:
        return Figure(value, "test")

    way = WayFigures(figure(round_trip_ms / 2), figure(0), figure(1000), figure(0), figure(1000))
    return LinkPlan("steady", Profile("a delay", (State("steady", way, way),)), 0)


def simulated(choice: Drafting, forward: float, token: float, round_trip: float) -> float:
    """Milliseconds of a token behind the first."""
    draft = DraftTimes(token=token)
    times = Times(token=forward, row=ROW, draft=draft, device=draft, broker=BROKER)
    # Rows are given out to all, so that nothing but time decides.
    setting = Setting(
        recording=RECORDING,
        times=times,
        link=steady(round_trip),
        worker=WorkerKind(rationed=False, lookup=False),
    )
    plan = Plan(choice.length, choice.window, ahead=64 if choice.ahead else 0)
    answers = simulate(setting, lambda: FixedPolicy(plan))
    assert not [answer.problem for answer in answers if answer.problem]
    return 1000 * sum(one.seconds - one.first for one in answers) / sum(one.tokens - 1 for one in answers)


@pytest.mark.parametrize(("forward", "token", "round_trip"), [(37.0, 20.0, 60.0), (97.0, 4.5, 2.0)])
def test_a_forecast_is_near_what_the_machines_do(forward: float, token: float, round_trip: float) -> None:
    pace = RoundTimes((round_trip + 2 * BROKER) / 1000, forward / 1000, ROW / 1000, token / 1000, (RIGHT,))
    off = {}
    for choice in PLANS:
        seconds = drafting(pace, choice).seconds if choice.length else pace.forward
        off[choice] = abs(1000 * seconds / simulated(choice, forward, token, round_trip) - 1)
    assert max(off.values()) < 0.15, off
    assert median(off.values()) < 0.09, off


FORWARD, READ = 110.0, 1000 / 350
"""Milliseconds of a target of 1.5 billion parameters on one thread, and of a token of a prompt."""
STREAMING = partial(FixedPolicy, Plan(0, 1, 1, 64))
DEFAULT = partial(ClosedFormPolicy, Plan(4, 1, 1, 8, 0.0, 8))


def pair(
    token: float, right: float, round_trip: float = 10.0, five: float = 1.35, prompt: int = 100
) -> Setting:
    """A draft that takes so many milliseconds a token and is right so often; five rows of the target to one."""
    draft = DraftTimes(token=token, read=READ)
    row = FORWARD * (five - 1) / 4
    times = Times(token=FORWARD, row=row, read=READ, draft=draft, device=draft)
    recording = random_recording(6, right, seed=3, prompt=prompt, limit=64, ends=False)
    return Setting(recording=recording, times=times, link=steady(round_trip), lookup=False)


def written(setting: Setting, *, device: bool = False, worker: bool = False) -> list[SimulatedText]:
    """Answers with the draft at either or both; streaming's without any."""
    kind = replace(LIKE_OURS, drafts=worker, lookup=False)
    changed = replace(setting, drafts=device, worker=kind)
    answers = simulate(changed, DEFAULT if device or worker else STREAMING)
    assert not [answer.problem for answer in answers if answer.problem]
    return answers


def share(setting: Setting, *, worker: bool) -> float:
    """Seconds of all answers of a device that drafts, as a share of streaming's."""
    drafting, streaming = written(setting, device=True, worker=worker), written(setting)
    return sum(text.seconds for text in drafting) / sum(text.seconds for text in streaming)


@pytest.mark.parametrize(
    ("token", "round_trip", "right"),
    [(5.0, 1.0, 0.62), (15.0, 60.0, 0.05), (45.0, 10.0, 0.62), (110.0, 1.0, 0.05), (500.0, 60.0, 0.62)],
)
def test_no_draft_makes_answers_slower_than_streaming(token: float, round_trip: float, right: float) -> None:
    """A worker's own draft of the worst kind is tried now and then, and reads a prompt for that."""
    setting = pair(token, right, round_trip)
    assert share(setting, worker=False) <= 1.02
    assert share(setting, worker=True) <= (1.02 if right > 0.5 else 1.06)


@pytest.mark.parametrize(
    ("token", "five", "most"), [(12.0, 1.15, 0.74), (12.0, 1.35, 0.78), (25.0, 1.15, 0.83)]
)
def test_a_pair_of_one_family_gains(token: float, five: float, most: float) -> None:
    for round_trip, worker in ((1.0, True), (50.0, False)):
        assert share(pair(token, 0.65, round_trip, five), worker=worker) <= most, round_trip


def test_a_device_whose_drafts_come_too_late_soon_drafts_no_more() -> None:
    proposed = [text.counters.proposed for text in written(pair(150.0, 0.9), device=True)]
    assert 0 < proposed[0] < 8
    assert sum(proposed) < 6 * 64 / 4, "it is tried again, as it may have been busy"


def test_a_prompt_is_read_where_the_rest_of_the_text_pays_for_it() -> None:
    """The draft reads 2,000 tokens in 5.7 s, where the whole text takes 7 s; the first text tells that."""
    long, short = (written(pair(12.0, 0.9, prompt=prompt), device=True) for prompt in (2000, 400))
    assert not any(text.counters.proposed for text in long[1:])
    assert all(text.counters.accepted for text in short)


@pytest.mark.parametrize(("token", "round_trip"), [(5.0, 60.0), (15.0, 600.0), (30.0, 5.0)])
def test_drafts_on_both_sides_are_as_good_as_the_better_side(token: float, round_trip: float) -> None:
    setting = pair(token, 0.65, round_trip, prompt=270)
    both, *either = (
        sum(text.seconds for text in written(setting, device=device, worker=worker))
        for device, worker in ((True, True), (True, False), (False, True))
    )
    assert both <= 1.03 * min(either)
