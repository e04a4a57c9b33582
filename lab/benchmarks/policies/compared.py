"""Answers of every policy and every fixed plan over one channel: the same texts, seeds and seconds of the channel."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec

from flexspec_mq.controller.plan import Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.policies.placement import PlacementPolicy
from flexspec_mq.energy.text import ModelledEnergy
from flexspec_mq.errors import FlexSpecError
from lab.bench.hindsight.simulated import worst_tenth
from lab.simulator.answers import LIKE_OURS, Answer, Setting
from lab.simulator.clairvoyant.bound import ClairvoyantBound
from lab.simulator.clairvoyant.plans import BASE, STREAMING, fixed_plans
from lab.simulator.clairvoyant.search import search
from lab.simulator.cost import Measured
from lab.simulator.recording import RecordedText, Recording
from lab.simulator.simulation import simulate
from lab.testbed.link import markov, tour
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.testbed.link.recordings import PREFIX, channels

COMPARED = "placement", "threshold", "bandit", "predictor", "rl"
_ALL = "wifi", "4g-weak", "5g", "satellite-geo", "4g", "satellite"
CHANGES = (
    f"{tour.PREFIX}{','.join(f'{name}=20' for name in _ALL)}",
    f"{tour.PREFIX}wifi=20,5g=20,4g=20,satellite=20",
    f"{markov.PREFIX}{','.join(_ALL)}",
)
"""Links that are another one every 20 s, in turn or in the mean."""
_CHANGING, _EVERY_S = 24, 5.0
"""Answers over one of these, and seconds from one to the next."""
_OFFSETS_S = 600.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What is the same for all links.

    Attributes:
        drafts: the worker has a draft, and looks up.
        delay_ms: on top of each forward.
        others: sessions beside.
        lookup: the worker looks up without a draft.
    """

    drafts: bool = True
    delay_ms: float = 0.0
    others: int = 0
    lookup: bool = False


CONDITIONS = {
    "worker with a draft": Condition(),
    "worker without, target 60 ms slower": Condition(drafts=False, delay_ms=60.0),
    "worker with a draft and 4 more sessions": Condition(others=4),
    "worker that only looks up, target 60 ms slower": Condition(drafts=False, lookup=True, delay_ms=60.0),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is simulated over a link.

    Attributes:
        setting: of all answers.
        texts: one after the other.
        begins_s: seconds of the channel at which they are asked for.
    """

    setting: Setting
    texts: Sequence[RecordedText]
    begins_s: Sequence[float]

    def answers(self, policy: Callable[[], Policy]) -> Sequence[Answer]:
        """Answers of one policy.

        Raises:
            FlexSpecError: one is not the recorded text.
        """
        others = partial(PlacementPolicy, BASE)
        found = simulate(self.setting, policy, self.texts, self.begins_s, others=others)
        if problem := next((one.problem for one in found if one.problem), ""):
            raise FlexSpecError(f"a simulated answer is wrong: {problem}")
        return found


def link_names(folder: Path | None) -> list[str]:
    """All built-in ones, those that change, and those of a folder of recordings."""
    recorded = [] if folder is None else [f"{PREFIX}{name}" for name in channels(folder)]
    return [*built_in().profiles, *CHANGES, *recorded]


def changes(name: str) -> bool:
    """Whether a link's name is that of one that changes every so often."""
    return name.startswith((tour.PREFIX, markov.PREFIX))


def setting_of(
    recording: Recording,
    times: Measured,
    link: LinkPlan,
    condition: Condition,
    *,
    seed: int,
    energy: ModelledEnergy | None = None,
) -> Setting:
    """A condition over a link; `energy` tells policies what the device draws."""
    return Setting(
        recording=recording,
        times=msgspec.structs.replace(times, delay=times.delay + condition.delay_ms),
        link=link,
        worker=replace(LIKE_OURS, drafts=condition.drafts, lookup=condition.drafts or condition.lookup),
        others=condition.others,
        energy=energy,
        seed=seed,
    )


def asked(setting: Setting, link: LinkPlan, answers: int) -> Asked:
    """So many texts over a link, each from any second of the channel on.

    Over one that changes there are as many as are asked for in two minutes, one every five seconds, so that a policy
    meets one change after the other.
    """
    rng = random.Random(f"{setting.seed} {link.name}")
    recorded = setting.recording.texts
    texts = rng.sample(recorded, min(answers, len(recorded)))
    if not changes(link.name):
        return Asked(setting, texts, [rng.uniform(0.0, _OFFSETS_S) for _ in texts])
    begins = [_EVERY_S * number for number in range(_CHANGING)]
    return Asked(setting, list(islice(cycle(texts), len(begins))), begins)


def compared(here: Asked, *, searches: bool = False) -> Mapping[str, Any]:
    """Seconds per answer of the best fixed plan, of each policy as a share of these, and regret.

    `regret` has, by policy, seconds of an answer as multiples of the least that a clairvoyant could need: median and
    worst tenth of the answers. The same for streaming, the best fixed plan of all answers (`best`), that of each
    answer (`each`), and with `searches` what a search found for each (`searched`). `worst_tenth` has the mean of the
    slowest tenth of a policy's answers as a share of streaming's.

    Args:
        here: what is asked.
        searches: look for the best plan of every few tokens, which takes seconds an answer.

    Raises:
        FlexSpecError: see `Asked.answers`.
    """

    def seconds(policy: Callable[[], Policy]) -> list[float]:
        return [one.seconds for one in here.answers(policy)]

    plans = fixed_plans()
    fixed = {name: seconds(partial(FixedPolicy, plan)) for name, plan in plans.items()}
    means = {name: fmean(took) for name, took in fixed.items()}
    best = min(means, key=means.__getitem__)
    streaming = fixed[STREAMING]
    ours = {name: seconds(partial(POLICIES[name], BASE)) for name in COMPARED}
    bound = ClairvoyantBound(here.setting)
    pairs = list(zip(here.texts, here.begins_s, strict=True))
    least = [bound.seconds(text, begins) for text, begins in pairs]
    others = {"best": fixed[best], "each": [min(took) for took in zip(*fixed.values(), strict=True)]}
    if searches:
        others["searched"] = [
            search(here.setting, text, begins, list(plans.values())).seconds for text, begins in pairs
        ]
    return {
        "best": best,
        "best_s": means[best],
        "streaming": means[STREAMING] / means[best],
        **{name: fmean(took) / means[best] for name, took in ours.items()},
        "fixed_s": means,
        "bound_s": fmean(least),
        "regret": {
            name: _regret(took, least) for name, took in {**others, "streaming": streaming, **ours}.items()
        },
        "worst_tenth": {name: worst_tenth(took) / worst_tenth(streaming) for name, took in ours.items()},
    }


def _regret(took: Sequence[float], least: Sequence[float]) -> dict[str, float]:
    ratios = [one / bound for one, bound in zip(took, least, strict=True)]
    return {"median": median(ratios), "worst_tenth": worst_tenth(ratios)}
