"""How soon a policy plans well again after a step: of the link, or of how often drafts are right.

A node writes some answers, and in the midst of one the link becomes another profile, or drafts begin to fare as on
other texts. From then on each round has a plan. How good that is in the new state is measured: seconds of answers
there with this plan held all the way, as a share of the fastest of all fixed plans.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import cycle, islice
from statistics import fmean, median
from typing import Any

import msgspec

from benchmarks.policies.compared import Asked, Condition, setting_of
from flexspec_mq.controller.plan import Learner, Observation, Plan, Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.link.profiles import LinkPlan, Profile, built_in
from flexspec_mq.simulator.answers import Setting
from flexspec_mq.simulator.clairvoyant.plans import BASE, fixed_plans
from flexspec_mq.simulator.cost import Measured
from flexspec_mq.simulator.recording import RecordedText, Recording
from flexspec_mq.simulator.simulation import Simulation

ADAPTING = "placement", "threshold", "predictor", "rl"
"""Policies that go by estimates. A bandit tries plans by turns, so that none of its plans tells that it knows."""
WITHIN = 0.03
"""A plan counts as good that takes no more than so much longer than the best."""
_HOLDS, _OF = 6, 8
"""Plans that must be good, of the newest ones from a round on, for a policy to have adapted there."""
_BEFORE, _AFTER = 6, 6
"""Answers."""
_STEP_S = 100.0
"""Second of the channel at which it changes."""
_LEAD_S = 0.7
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
        jumps: the link changes, at 100 s of the channel, in the midst of the first text of `after`. Otherwise drafts
            fare otherwise from that text on.
        before, after: texts.
    """

    name: str
    setting: Setting
    jumps: bool
    before: Sequence[RecordedText]
    after: Sequence[RecordedText]


@dataclass(frozen=True, slots=True)
class _Round:
    """A plan that was made because tokens had come.

    Attributes:
        at: seconds of the simulation.
        plan: it.
    """

    at: float
    plan: Plan


class _Noted:
    """A policy, and the plans that it made after each round.

    Args:
        policy: asked.
        now: the time.
        rounds: gets them.
    """

    def __init__(self, policy: Policy, now: Callable[[], float], rounds: list[_Round]) -> None:
        self._policy = policy
        self._now = now
        self._rounds = rounds
        self._committed = 0

    def recall(self, memory: MutableMapping[str, object]) -> None:
        """Have it go on from what was learned before, if it learns."""
        if isinstance(self._policy, Learner):
            self._policy.recall(memory)

    def plan(self, seen: Observation) -> Plan:
        """Plan the next batch."""
        plan = self._policy.plan(seen)
        if seen.committed > self._committed:
            self._committed = seen.committed
            self._rounds.append(_Round(self._now(), plan))
        return plan


def steps(recording: Recording, times: Measured, condition: Condition, *, seed: int) -> list[Step]:
    """All that are looked at.

    Args:
        recording: of the texts.
        times: of worker and device.
        condition: of all answers; without other sessions.
        seed: of all chance.
    """
    found = []
    texts = list(islice(cycle(recording.texts), _BEFORE + _AFTER))
    for before, after in LINKS:
        states = tuple(
            msgspec.structs.replace(built_in().get(one).states[0], name=one) for one in (before, after)
        )
        link = LinkPlan(f"{before} to {after}", Profile("a step", states), seed, lasts_s=(_STEP_S, 3600.0))
        setting = setting_of(recording, times, link, condition, seed=seed)
        found.append(Step(link.name, setting, True, texts[:_BEFORE], texts[_BEFORE:]))
    link = LinkPlan(_DRAFTS_LINK, built_in().get(_DRAFTS_LINK), seed)
    for shares in DRAFTS:
        # Seeds tell texts apart.
        made = [
            _redrafted(text, shares[number >= _BEFORE], seed + number, recording.vocab_size)
            for number, text in enumerate(texts)
        ]
        joined = msgspec.structs.replace(recording, texts=tuple(made))
        setting = setting_of(joined, times, link, condition, seed=seed)
        name = f"drafts right at {shares[0]:.0%}, then {shares[1]:.0%}, {_DRAFTS_LINK}"
        found.append(Step(name, setting, False, made[:_BEFORE], made[_BEFORE:]))
    return found


def _redrafted(text: RecordedText, right: float, seed: int, vocabulary: int) -> RecordedText:
    """A text with drafts that are right in a share of positions, wherever these lie."""
    rng = random.Random(seed)
    proposals = tuple(
        (token if rng.random() < right else (token + 1) % vocabulary, right) for token in text.tokens
    )
    return msgspec.structs.replace(text, proposals=proposals, seed=seed)


def adaptation(step: Step) -> Mapping[str, Any]:
    """What each policy planned in the rounds after a step, verdicts with tokens.

    By policy: `rounds` before the first plan that is good, and with it most of those that follow; None if that never
    happens. `settles`, the same for plans within 3 % of what it plans in the end, good or not. `good`, share of the
    plans. `excess`, by how much more the mean plan takes than the best fixed one, as a share of it.

    Raises:
        FlexSpecError: an answer is not the recorded text.
    """

    @cache
    def seconds(plan: Plan) -> float:
        """Of an answer behind its first token, in the new state."""
        begins = [_STEP_S + 50.0 * (1 + number) for number in range(len(step.after))]
        found = Asked(step.setting, step.after, begins).answers(partial(FixedPolicy, plan))
        return fmean(one.seconds - one.first for one in found)

    best = min(map(seconds, fixed_plans().values()))
    found = {}
    for name in ADAPTING:
        took = [seconds(plan) for plan in _plans(step, partial(POLICIES[name], BASE))]
        found[name] = {
            "rounds": _good_from(took, best),
            "settles": _good_from(took, median(took[len(took) // 2 :])),
            "good": fmean(one <= (1 + WITHIN) * best for one in took),
            "excess": fmean(took) / best - 1,
        }
    return {"step": step.name, "best_s": best, "policies": found}


def _good_from(took: Sequence[float], best: float) -> int | None:
    """The first round whose plan is good, as are most of those behind it."""
    good = [one <= (1 + WITHIN) * best for one in took]
    for number in range(len(good) - _OF + 1):
        if good[number] and sum(good[number : number + _OF]) >= _HOLDS:
            return number
    return None


def _plans(step: Step, policy: Callable[[], Policy]) -> list[Plan]:
    """What was planned at each round after the step."""
    rounds: list[_Round] = []
    simulation = Simulation(step.setting, lambda: _Noted(policy(), lambda: simulation.now, rounds))
    for text in step.before:
        _write(simulation, text, 0.0)
    began = simulation.now + (_LEAD_S if step.jumps else 0.0)
    first, *others = step.after
    _write(simulation, first, _STEP_S - _LEAD_S)
    for text in others:
        _write(simulation, text, _STEP_S + 1.0)
    return [one.plan for one in rounds if one.at >= began]


def _write(simulation: Simulation, text: RecordedText, begins_s: float) -> None:
    if problem := simulation.answer(text, begins_s).problem:
        raise FlexSpecError(f"a simulated answer is wrong: {problem}")
