"""What the default policy does where a link changes under a text, in simulated time."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import FixedPolicy, Plan
from flexspec_mq.controller.policies import POLICIES
from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.simulation import Simulation, simulate
from lab.testbed.link.plans import link_plan
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from tests.lab.simulator.recordings import TIMES, random_recording

BASE = Plan(4, 1, 1, 8, worker_draft=8)


def setting(link: LinkPlan, tokens: int, *, worker_drafts: bool) -> Setting:
    """One long text, of which the draft proposes seven tokens in ten right."""
    worker = replace(LIKE_OURS, drafts=worker_drafts, lookup=worker_drafts)
    recording = random_recording(1, seed=5, limit=tokens, ends=False)
    return Setting(recording=recording, times=TIMES, link=link, worker=worker)


def test_a_device_that_left_its_draft_unused_over_a_satellite_uses_it_again_over_wifi() -> None:
    link = link_plan("tour:satellite-geo=15,wifi=100", 2, None)
    plans: list[tuple[float, Plan]] = []

    class Noted(ClosedFormPolicy):
        def plan(self, seen: Observation) -> Plan:
            plans.append((simulation.now, super().plan(seen)))
            return plans[-1][1]

    tour = setting(link, 900, worker_drafts=False)
    simulation = Simulation(tour, lambda: Noted(BASE))
    assert simulation.answer(tour.recording.texts[0], 0.0).problem == ""
    drafts = [at for at, plan in plans if plan.draft_length > 1 and at > 15.0]
    assert not any(plan.draft_length > 1 for at, plan in plans if 5.0 < at < 15.0)
    # The round trip is asked for every two seconds, and again at once where it looks like a step.
    assert drafts[0] < 15.0 + 2.0 + 2 * 0.65 + 1.0


def in_a_tunnel(until: float, policy: str | Plan, *, worker_drafts: bool) -> tuple[float, float]:
    """Seconds that a text takes over a mobile link, and where that is away from its third second on."""
    whole = LinkPlan("whole", built_in().get("4g"), 1, lasts_s=(1000.0,))
    away = msgspec.structs.replace(whole, outages=(Outage(2.0, until),))
    seconds = []
    for link in (whole, away):
        (answer,) = simulate(
            setting(link, 330, worker_drafts=worker_drafts),
            lambda: FixedPolicy(policy) if isinstance(policy, Plan) else POLICIES[policy](BASE),
            begins_s=[0.0],
        )
        assert answer.problem == ""
        seconds.append(answer.seconds)
    assert seconds[0] > until, "the outage lies within the text"
    return seconds[0], seconds[1]


@pytest.mark.parametrize("policy", ["closed-form", "rl"])
def test_a_worker_without_a_draft_writes_on_while_a_device_that_drafts_is_in_a_tunnel(policy: str) -> None:
    whole, away = in_a_tunnel(6.0, policy, worker_drafts=False)
    # Of its four seconds are lost what drafts would have given, and what it takes to be back.
    assert away < whole + 1.5


def test_a_worker_that_drafts_alone_writes_on_while_its_device_is_in_a_tunnel() -> None:
    whole, away = in_a_tunnel(4.0, "closed-form", worker_drafts=True)
    _, short = in_a_tunnel(4.0, Plan(0, 1, 1, 32, worker_draft=8), worker_drafts=True)
    assert away < whole + 0.5
    assert away < short - 1.0
