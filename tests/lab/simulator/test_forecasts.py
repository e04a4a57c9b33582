"""The closed form of a plan's speed beside the simulator, whose machines, links and rules are those of production."""

from statistics import median

import pytest

from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.controller.round_model import NOBODY, Drafting, RoundTimes, drafting
from lab.simulator.answers import Setting
from lab.simulator.cost import DraftTimes, Times
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
