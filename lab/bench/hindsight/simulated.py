"""How plans and policies fare in simulated time on a run's own texts, drafts and channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import fmean, median
from typing import Any

import msgspec

from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.errors import FlexSpecError
from lab.simulator.answers import Setting
from lab.simulator.clairvoyant.bound import ClairvoyantBound
from lab.simulator.clairvoyant.plans import BASE, STREAMING, fixed_plans
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording
from lab.simulator.simulation import simulate
from lab.testbed.link.profiles import LinkPlan

BOUND, EACH, BEST = "bound", "each", "best-fixed"
"""Rows beside streaming and policies: what nothing undercuts, the best fixed plan of each answer, and that of all."""


@dataclass(frozen=True, slots=True)
class Hindsight:
    """What is known of a run before it is measured.

    Attributes:
        recording: of its questions, in their order.
        times: of its models.
        seed: of the run.
    """

    recording: Recording
    times: Measured
    seed: int

    def best(self, link: LinkPlan | None, delay_ms: float, begins_s: Sequence[float | None]) -> Plan:
        """The fixed plan that takes the fewest seconds over a channel.

        Args:
            link: None is loopback.
            delay_ms: by which each forward of the target takes longer.
            begins_s: second of the channel at which each question begins.
        """
        name, _ = self._best(self._setting(link, delay_ms), begins_s)
        return fixed_plans()[name]

    def told(
        self, link: LinkPlan | None, delay_ms: float, begins_s: Sequence[float | None]
    ) -> dict[str, Any]:
        """Simulated figures of a channel, as `best` takes it.

        Returns:
            `best`, the name of that plan, and `rows`: seconds an answer (`mean_s`, `worst_tenth_s`), and as multiples
            of the bound of each (`of_bound`, `worst_of_bound`).
        """
        setting = self._setting(link, delay_ms)
        best, fixed = self._best(setting, begins_s)
        bound = ClairvoyantBound(setting)
        least = [
            bound.seconds(text, begins or 0.0)
            for text, begins in zip(self.recording.texts, begins_s, strict=True)
        ]
        took: dict[str, Sequence[float]] = {
            BOUND: least,
            EACH: [min(one) for one in zip(*fixed.values(), strict=True)],
            BEST: fixed[best],
            "streaming": fixed[STREAMING],
        }
        for name, policy in POLICIES.items():
            took[name] = self._seconds(setting, begins_s, partial(policy, BASE))
        return {"best": best, "rows": {name: _figures(one, least) for name, one in took.items()}}

    def _setting(self, link: LinkPlan | None, delay_ms: float) -> Setting:
        times = msgspec.structs.replace(self.times, delay=self.times.delay + delay_ms)
        return Setting(recording=self.recording, times=times, link=link, seed=self.seed)

    def _best(
        self, setting: Setting, begins_s: Sequence[float | None]
    ) -> tuple[str, Mapping[str, Sequence[float]]]:
        fixed = {
            name: self._seconds(setting, begins_s, partial(FixedPolicy, plan))
            for name, plan in fixed_plans().items()
        }
        return min(fixed, key=lambda name: sum(fixed[name])), fixed

    def _seconds(
        self, setting: Setting, begins_s: Sequence[float | None], policy: Callable[[], Policy]
    ) -> list[float]:
        found = simulate(setting, policy, begins_s=begins_s)
        if problem := next((one.problem for one in found if one.problem), ""):
            raise FlexSpecError(f"a simulated answer is wrong: {problem}")
        return [one.seconds for one in found]


def _figures(took: Sequence[float], least: Sequence[float]) -> dict[str, float]:
    ratios = [one / bound for one, bound in zip(took, least, strict=True)]
    return {
        "mean_s": fmean(took),
        "worst_tenth_s": worst_tenth(took),
        "of_bound": median(ratios),
        "worst_of_bound": worst_tenth(ratios),
    }


def worst_tenth(values: Sequence[float]) -> float:
    """Mean of the largest tenth, rounded up."""
    return fmean(sorted(values)[-ceil(len(values) / 10) :])
