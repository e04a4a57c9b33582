"""Answers of every policy and every fixed plan over one channel: the same texts, seeds and seconds of the channel."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.policies.placement import PlacementPolicy
from flexspec_mq.energy.text import ModelledEnergy
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.link.profiles import LinkPlan, Profile, built_in
from flexspec_mq.link.recordings import PREFIX, channels, link_plan
from flexspec_mq.simulator.answers import LIKE_OURS, Answer, Setting
from flexspec_mq.simulator.cost import Measured
from flexspec_mq.simulator.recording import Recording
from flexspec_mq.simulator.simulation import simulate

BASE = Plan(4, 1, 1, 8, 0.0, 8)
"""What an edge node starts from."""
_AHEAD = 64
COMPARED = "placement", "threshold", "bandit", "predictor", "rl"
CHANGING = "changing"
"""A link that is another one every 20 s."""
_CHANGES = "wifi", "4g-weak", "5g", "satellite-geo", "4g", "satellite"
_CHANGES_S = 20.0
_OFFSETS_S = 600.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What is the same for all links.

    Attributes:
        drafts: the worker has a draft.
        delay_ms: on top of each forward.
        others: sessions beside.
    """

    drafts: bool = True
    delay_ms: float = 0.0
    others: int = 0


CONDITIONS = {
    "worker with a draft": Condition(),
    "worker without, target 60 ms slower": Condition(drafts=False, delay_ms=60.0),
    "worker with a draft and 4 more sessions": Condition(others=4),
}


def fixed_plans() -> dict[str, Plan]:
    """By a name for people."""

    def one(length: int, window: int, ahead: int, worker: int = 0) -> Plan:
        return replace(BASE, draft_length=length, in_flight=window, ahead=ahead, worker_draft=worker)

    return {
        "nobody drafts": one(0, 1, _AHEAD),
        "worker drafts": one(0, 1, _AHEAD, BASE.worker_draft),
        **{f"K {length}, waiting": one(length, 1, 0) for length in (2, 4, 8)},
        **{f"K {length}, W {window}": one(length, window, _AHEAD)
           for length, window in ((4, 1), (2, 2), (4, 2), (8, 2), (4, 3))},
        **{f"K 4, W {window}, and worker": one(4, window, _AHEAD, BASE.worker_draft) for window in (1, 2, 3)},
    }  # fmt: skip


def link_names(folder: Path | None) -> list[str]:
    """All built-in ones, one that changes, and those of a folder of recordings."""
    recorded = [] if folder is None else [f"{PREFIX}{name}" for name in channels(folder)]
    return [*built_in().profiles, CHANGING, *recorded]


def plan_of(name: str, seed: int, folder: Path | None) -> LinkPlan:
    """Of a link by its name.

    Raises:
        UsageError: there is no such link.
    """
    if name != CHANGING:
        return link_plan(name, seed, folder)
    states = tuple(
        msgspec.structs.replace(built_in().get(one).states[0], name=one, next={}) for one in _CHANGES
    )
    return LinkPlan(name, Profile("changes", states), seed, lasts_s=(_CHANGES_S,) * len(states))


def answered(
    recording: Recording,
    times: Measured,
    link: LinkPlan,
    condition: Condition,
    policy: Callable[[], Policy],
    *,
    answers: int,
    seed: int,
    energy: ModelledEnergy | None = None,
) -> Sequence[Answer]:
    """Texts one after the other, each from its second of the channel on.

    Raises:
        FlexSpecError: one is not the recorded text.
    """
    setting = Setting(
        recording=recording,
        times=msgspec.structs.replace(times, delay=times.delay + condition.delay_ms),
        link=link,
        worker=replace(LIKE_OURS, drafts=condition.drafts, lookup=condition.drafts),
        others=condition.others,
        energy=energy,
        seed=seed,
    )
    rng = random.Random(f"{seed} {link.name}")
    texts = rng.sample(recording.texts, min(answers, len(recording.texts)))
    begins = [rng.uniform(0.0, _OFFSETS_S) for _ in texts]
    found = simulate(setting, policy, texts, begins, others=lambda: PlacementPolicy(BASE))
    for one in found:
        if one.problem:
            raise FlexSpecError(f"a simulated answer over {link.name} is wrong: {one.problem}")
    return found


def compared(
    recording: Recording,
    times: Measured,
    link: LinkPlan,
    condition: Condition,
    *,
    answers: int,
    seed: int,
) -> Mapping[str, Any]:
    """Seconds per answer of the best fixed plan, and of each policy as a share of these.

    Raises:
        FlexSpecError: see `answered`.
    """

    def seconds(policy: Callable[[], Policy]) -> float:
        found = answered(recording, times, link, condition, policy, answers=answers, seed=seed)
        return sum(one.seconds for one in found) / len(found)

    plans = fixed_plans()
    fixed = {name: seconds(lambda plan=plan: FixedPolicy(plan)) for name, plan in plans.items()}  # type: ignore[misc]
    best = min(fixed, key=fixed.__getitem__)
    return {
        "link": link.name,
        "best": best,
        "best_s": fixed[best],
        "streaming": fixed["nobody drafts"] / fixed[best],
        **{name: seconds(lambda name=name: POLICIES[name](BASE)) / fixed[best] for name in COMPARED},  # type: ignore[misc]
        "fixed_s": fixed,
    }
