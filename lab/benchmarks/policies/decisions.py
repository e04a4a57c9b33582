"""How long a policy takes for a plan, on observations as they came in simulated answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

from flexspec_mq.controller.features import features, known
from flexspec_mq.controller.network import shipped_network
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.threshold import ThresholdPolicy
from lab.benchmarks.policies.compared import COMPARED, CONDITIONS, asked, setting_of
from lab.simulator.clairvoyant.plans import BASE
from lab.simulator.cost import Measured
from lab.simulator.recording import Recording
from lab.testbed.link.recordings import link_plan

_LINKS = "wifi", "4g-moving", "satellite"
_TURNS = 5


class _Keeps:
    """A policy that keeps what it sees."""

    def __init__(self, kept: list[Observation]) -> None:
        self._kept = kept
        self._policy = ThresholdPolicy(BASE)

    def plan(self, seen: Observation) -> Plan:
        """As the closed form does."""
        self._kept.append(seen)
        return self._policy.plan(seen)


def observations(recording: Recording, times: Measured, answers: int, seed: int) -> list[Observation]:
    """Of answers over some links."""
    kept: list[Observation] = []
    condition = next(iter(CONDITIONS.values()))
    for name in _LINKS:
        link = link_plan(name, seed, None)
        setting = setting_of(recording, times, link, condition, seed=seed)
        asked(setting, link, answers).answers(lambda: _Keeps(kept))
    return kept


def decision_us(kept: Sequence[Observation]) -> Mapping[str, float]:
    """Microseconds of a plan, for each policy: the mean over all observations, median of some turns.

    "network alone" is features and scores, which `rl` does once in a few tokens.
    """
    found: dict[str, list[float]] = {name: [] for name in (*COMPARED, "network alone")}
    network = shipped_network()
    usable = [seen for seen in kept if known(seen)]
    for _ in range(_TURNS):
        for name in COMPARED:
            policy = POLICIES[name](BASE)
            began = time.perf_counter()
            for seen in kept:
                policy.plan(seen)
            found[name].append(1e6 * (time.perf_counter() - began) / len(kept))
        began = time.perf_counter()
        for seen in usable:
            network.scores(features(seen))
        found["network alone"].append(1e6 * (time.perf_counter() - began) / len(usable))
    return {name: median(values) for name, values in found.items()}
