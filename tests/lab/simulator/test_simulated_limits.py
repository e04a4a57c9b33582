"""Budgets and targets of simulated answers, by the real protocol and policies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.limits import Limits
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.energy.presets import built_in
from flexspec_mq.energy.text import ModelledEnergy
from lab.simulator.answers import Answer, Setting
from lab.simulator.simulation import simulate
from lab.simulator.worker import WorkerKind
from tests.lab.simulator.recordings import TIMES, made

BASE = Plan(4, 1, 1, 8, 0.0, 8)


def energy(cores: int = 1) -> ModelledEnergy:
    device = built_in().device("raspberry-pi-5")
    return ModelledEnergy("pi", device.power, built_in().radio(device.radio).power, cores)


def answers(policy: Callable[[], Policy], by: ModelledEnergy) -> list[Answer]:
    kind = WorkerKind(drafts=False, lookup=False)
    setting = Setting(recording=made(texts=8, right=0.9), times=TIMES, worker=kind, energy=by)
    found = simulate(setting, policy)
    assert not any(one.problem for one in found)
    return found


def per_token(found: list[Answer]) -> float:
    return sum(one.joules or 0.0 for one in found) / sum(one.tokens for one in found)


def test_energy_is_counted_as_an_edge_node_counts_it() -> None:
    device = built_in().device("raspberry-pi-5").power
    (one, *_) = answers(lambda: FixedPolicy(BASE), energy())
    assert one.joules is not None
    # The device idles for as long as its session lasts, drafts, and listens after each packet.
    least = device.idle_w * (one.seconds - 0.01) + device.core_w * one.device_busy * 0.99
    assert least < one.joules < least + 0.5 * (one.seconds + 0.5)


def test_a_budget_that_drafts_break_is_kept_without_them_and_another_is_none() -> None:
    dear = energy(cores=60)  # drafting is what costs
    free = answers(lambda: ClosedFormPolicy(BASE), dear)
    nobody = per_token(answers(lambda: FixedPolicy(Plan(0, 1, 1, 64)), dear))
    assert per_token(free) > 1.5 * nobody

    def within(budget: float) -> list[Answer]:
        limits = Limits(energy_budget=budget, energy=dear)
        return answers(lambda: ClosedFormPolicy(BASE, choose_qos=True, limits=limits), dear)

    kept = within(1.3 * nobody)
    assert per_token(kept) <= 1.3 * nobody
    (report,) = kept[-1].limits
    assert report.state == "kept"
    assert report.value == pytest.approx(per_token(kept), rel=0.05)
    assert sum(one.drafted for one in kept) < sum(one.drafted for one in free) / 2
    (report,) = within(0.5 * nobody)[-1].limits
    assert report.state == "out_of_reach"
    (report,) = within(100 * nobody)[-1].limits
    assert report.state == "kept"


def test_a_target_that_drafts_meet_is_kept_and_one_that_nothing_meets_is_said() -> None:
    def within(target: float) -> list[Answer]:
        limits = Limits(latency_target=target, energy=energy(cores=60))
        return answers(lambda: ClosedFormPolicy(BASE, limits=limits), energy(cores=60))

    lavish = within(1.0)
    assert all(one.limits[0].state == "kept" for one in lavish)
    needs = within(0.025)  # nobody's drafts take more than 30 ms
    assert sum(one.drafted for one in needs) > 2 * sum(one.drafted for one in lavish)
    paces = [(one.seconds - one.first) / (one.tokens - 1) for one in needs[1:]]
    assert sum(pace <= 0.025 for pace in paces) >= len(paces) / 2
    for one, pace in zip(needs[1:], paces, strict=True):
        (report,) = one.limits
        assert (report.state == "kept") == (report.value is not None and report.value <= 25.0)
        assert report.value == pytest.approx(1000 * pace, rel=0.5)
    assert {one.limits[0].state for one in within(0.001)} == {"out_of_reach"}
