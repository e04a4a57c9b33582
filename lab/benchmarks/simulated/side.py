"""A side of `lab.benchmarks.answers` in simulated time, and its figures beside the measured ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from lab.benchmarks.pricing.others import plan_of
from lab.simulator.answers import Answer, Setting
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording
from lab.simulator.simulation import simulate
from lab.simulator.worker import WorkerKind
from lab.testbed.link.profiles import LinkPlan

_RATIONED = "base"
"""Version of the worker that gives rows out by their worth; the other one drafts for everybody."""
_FIGURES: Mapping[str, Callable[[Answer], float]] = {
    "mean_s": lambda one: one.seconds,
    "ip_up": lambda one: one.up.bytes,
    "ip_down": lambda one: one.down.bytes,
    "bytes_up": lambda one: one.traffic.up,
    "bytes_down": lambda one: one.traffic.down,
    "proposed": lambda one: one.drafted,
    "wasted_edge": lambda one: one.wasted,
    "wasted_own": lambda one: one.wasted_own,
}
"""Means of answers that both tell, by their name in the run."""


def answers_of(
    case: Mapping[str, Any],
    flags: Sequence[str],
    link: LinkPlan | None,
    recording: Recording,
    times: Measured,
    *,
    others: int = 0,
    statuses: int = 0,
    seed: int = 0,
) -> list[Answer]:
    """The answers of one side of one case of a run.

    Args:
        case: of `lab.benchmarks.answers`.
        flags: of the side's edge node.
        link: of the case; None is loopback.
        recording: of the questions.
        times: of the machine.
        others: more sessions at the worker.
        statuses: of workers that the link carries, to whichever edge node.
        seed: of all chance.
    """
    edge = plan_of(flags)
    setting = Setting(
        recording=recording,
        times=msgspec.structs.replace(times, delay=case["delay_ms"]),
        link=link,
        drafts="none" not in flags,
        worker=WorkerKind(rationed=edge.version == _RATIONED, lookup=True, reads=True),
        others=others,
        statuses=statuses,
        seed=seed,
    )
    return simulate(setting, edge.plan.new_policy, begins_s=case["begins_s"])


def compared(measured: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """Measured and simulated figures of a side, and what simulated seconds are of measured ones in the mean."""
    found = {name: float(np.mean([value(one) for one in answers])) for name, value in _FIGURES.items()}
    found["median_s"] = float(np.median([one.seconds for one in answers]))
    found["median_first_s"] = float(np.median([one.first for one in answers]))
    found["tokens_per_round"] = sum(one.tokens for one in answers) / sum(one.rounds for one in answers)
    return {
        "measured": {name: measured[name] for name in found},
        "simulated": found,
        "ratio": found["mean_s"] / measured["mean_s"],
        "problems": sorted({one.problem for one in answers} - {""}),
    }
