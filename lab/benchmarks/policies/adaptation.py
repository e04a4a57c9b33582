"""How well a policy does five rounds after a step: of the link, or of how often drafts are right.

A node writes some answers, and in the midst of one the link becomes another profile, or drafts begin to fare as on
other texts. Five rounds later its policy either goes on, or gives way to a fixed plan, each of thirteen in turn: up
to there both runs are the same. Who has adapted needs no more for the rest of that answer than the plan that proves
best over all trials of the step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from math import inf
from statistics import fmean
from typing import Any

import msgspec

from flexspec_mq.controller.plan import Learner, Observation, Plan, Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.policies.compared import Condition, setting_of
from lab.simulator.answers import Answer, Setting
from lab.simulator.clairvoyant.plans import BASE, STREAMING, fixed_plans
from lab.simulator.cost import Measured
from lab.simulator.recording import RecordedText, Recording
from lab.simulator.simulation import Simulation
from lab.testbed.link.profiles import LinkPlan, Profile, built_in

ADAPTING = "placement", "threshold", "predictor", "rl"
"""Policies that go by estimates. A bandit tries plans by turns, so that none of its plans tells that it knows."""
ROUNDS = 5
"""Verdicts with tokens after a step that a policy has for it."""
_BEFORE = 2
"""Answers before the one that meets a step, on the same node."""
_STEP_S = 100.0
"""Second of the channel at which it changes."""
_LEAD_S = 0.5
"""Seconds before that at which the answer is asked for that meets the step."""
LINKS = (
    ("wifi", "satellite"), ("satellite", "wifi"), ("5g", "satellite-geo"), ("satellite-geo", "5g"),
    ("wifi", "4g-weak"), ("4g-weak", "wifi"),
)  # fmt: skip
"""Profiles before a step and after it."""
DRAFTS = (0.85, 0.35), (0.35, 0.85)
"""Shares of positions at which a draft is right, before a step and after it."""
_DRAFTS_LINK = "4g"


@dataclass(frozen=True, slots=True)
class Step:
    """A step.

    Attributes:
        name: for people.
        setting: of all answers.
        jumps: the link changes, at 100 s of the channel, in the midst of the last text of a trial. Otherwise drafts
            fare otherwise in that text.
        trials: texts of each, one after the other; the last one meets the step.
    """

    name: str
    setting: Setting
    jumps: bool
    trials: Sequence[Sequence[RecordedText]]


class _GivesWay:
    """A policy that is asked for `ROUNDS` rounds after a step; then a fixed plan takes its place, if there is one.

    Args:
        policy: asked.
        then: the plan; None lets the policy go on.
        now: the time.
        began: of the step; infinity before the text that meets it.
        told: gets the time at which the plan took the policy's place, or would have.
    """

    def __init__(
        self, policy: Policy, then: Plan | None, now: Callable[[], float], began: float, told: list[float]
    ) -> None:
        self._policy = policy
        self._then = then
        self._now = now
        self._began = began
        self._told = told
        self._committed = self._rounds = 0

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """Have it go on from what was learned before, if it learns."""
        if isinstance(self._policy, Learner):
            self._policy.recall(memory)

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch."""
        plan = self._policy.plan(seen)
        now = self._now()
        if seen.committed > self._committed and now >= self._began:
            self._rounds += 1
            if self._rounds == ROUNDS:
                self._told.append(now)
        self._committed = seen.committed
        return plan if self._then is None or self._rounds < ROUNDS else self._then


def steps(
    recording: Recording, times: Measured, condition: Condition, *, trials: int, seed: int
) -> list[Step]:
    """All that are looked at.

    Args:
        recording: of the texts.
        times: of worker and device.
        condition: of all answers; without other sessions.
        trials: of each step, on a node of its own.
        seed: of all chance.
    """
    found = []
    turns = [list(islice(cycle(recording.texts), number, number + _BEFORE + 1)) for number in range(trials)]
    for before, after in LINKS:
        states = tuple(
            msgspec.structs.replace(built_in().get(one).states[0], name=one) for one in (before, after)
        )
        link = LinkPlan(f"{before} to {after}", Profile("a step", states), seed, lasts_s=(_STEP_S, 3600.0))
        setting = setting_of(recording, times, link, condition, seed=seed)
        found.append(Step(link.name, setting, True, turns))
    link = LinkPlan(_DRAFTS_LINK, built_in().get(_DRAFTS_LINK), seed)
    for shares in DRAFTS:
        # Seeds tell texts apart.
        made = [
            [
                _redrafted(text, shares[place == _BEFORE], seed + 100 * number + place, recording.vocab_size)
                for place, text in enumerate(texts)
            ]
            for number, texts in enumerate(turns)
        ]
        joined = msgspec.structs.replace(recording, texts=tuple(text for texts in made for text in texts))
        setting = setting_of(joined, times, link, condition, seed=seed)
        name = f"drafts right at {shares[0]:.0%}, then {shares[1]:.0%}, {_DRAFTS_LINK}"
        found.append(Step(name, setting, False, made))
    return found


def _redrafted(text: RecordedText, right: float, seed: int, vocabulary: int) -> RecordedText:
    """A text with drafts that are right in a share of positions, wherever these lie."""
    rng = random.Random(seed)
    proposals = tuple(
        (token if rng.random() < right else (token + 1) % vocabulary, right) for token in text.tokens
    )
    return msgspec.structs.replace(text, proposals=proposals, seed=seed)


def adaptation(step: Step) -> Mapping[str, Any]:
    """What each policy takes for the rest of an answer, from `ROUNDS` rounds after a step on.

    By policy: `seconds`, mean over the trials; `ratio`, these over what the plan takes that is best in hindsight;
    `best`, that plan; `streaming`, what streaming from there on takes, over the same.

    Raises:
        FlexSpecError: an answer is not the recorded text, or all end within these rounds.
    """
    found = {}
    for name in ADAPTING:
        policy = partial(POLICIES[name], BASE)
        ours = _rest(step, policy, None)
        fixed = {title: _rest(step, policy, plan) for title, plan in fixed_plans().items()}
        best = min(fixed, key=fixed.__getitem__)
        found[name] = {
            "seconds": ours,
            "ratio": ours / fixed[best],
            "best": best,
            "streaming": fixed[STREAMING] / fixed[best],
        }
    return {"step": step.name, "policies": found}


def _rest(step: Step, policy: Callable[[], Policy], then: Plan | None) -> float:
    """Seconds for the rest of an answer, mean over the trials that go on for so long.

    Up to the last of these rounds nothing depends on `then`, so that the same trials count for all plans.
    """
    found = [one for texts in step.trials if (one := _rest_of_one(step, texts, policy, then)) is not None]
    if not found:
        raise FlexSpecError(
            f"all texts end within {ROUNDS} rounds of a step", hint="record longer ones: --tokens 128"
        )
    return fmean(found)


def _rest_of_one(
    step: Step, texts: Sequence[RecordedText], policy: Callable[[], Policy], then: Plan | None
) -> float | None:
    """Seconds for the rest of the last text; None if it ends within the rounds."""
    told: list[float] = []
    began = inf
    simulation = Simulation(
        step.setting, lambda: _GivesWay(policy(), then, lambda: simulation.now, began, told)
    )
    for text in texts[:-1]:
        _write(simulation, text, 0.0)
    began = simulation.now + (_LEAD_S if step.jumps else 0.0)
    last = _write(simulation, texts[-1], _STEP_S - _LEAD_S)
    return last.began + last.seconds - told[0] if told else None


def _write(simulation: Simulation, text: RecordedText, begins_s: float) -> Answer:
    answer = simulation.answer(text, begins_s)
    if answer.problem:
        raise FlexSpecError(f"a simulated answer is wrong: {answer.problem}")
    return answer
