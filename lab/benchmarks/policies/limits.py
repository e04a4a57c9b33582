"""Energy budgets and latency targets in simulated time: kept where they can be, and said where they are not.

Limits are multiples of what the best of all fixed plans takes in hindsight, over the same texts, seeds and seconds of
each link: joules per token of all answers of a run, tail of the radio included, and milliseconds per token after the
first of each answer. A budget is kept by a run whose mean is within it, a target by an answer.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flexspec_mq.controller.limits.limits import Limits
from flexspec_mq.controller.plan import Policy
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.policies.within_limits import WithinLimits
from flexspec_mq.daemon.main import run_main
from flexspec_mq.energy.presets import DEVICES, built_in
from flexspec_mq.energy.text import ModelledEnergy
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.policies.compared import COMPARED, CONDITIONS, asked, link_names, setting_of
from lab.simulator.answers import Answer
from lab.simulator.clairvoyant.plans import BASE, fixed_plans
from lab.simulator.cost import read_times
from lab.simulator.recording import read_recording
from lab.testbed.link.recordings import link_plan

LEVELS = 0.8, 1.05, 1.2, 1.5
"""Limits, as multiples of what the best fixed plan takes."""
ENERGY, LATENCY = "energy_budget", "latency_target"
ANY = "threshold"
"""Policy under a latency target; which one it is makes no difference, see `WithinLimits`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a limit, over one run or in one answer.

    Attributes:
        limit: `ENERGY` or `LATENCY`.
        level: of `LEVELS`.
        ratio: what it came to, over the limit.
        best: what the best fixed plan came to, over the limit.
        state: as the policy's last report says.
    """

    limit: str
    level: float
    ratio: float
    best: float
    state: str


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--times", type=Path, required=True, metavar="FILE")
    made.add_argument("--links", nargs="+", metavar="LINK", help="only these")
    made.add_argument("--device", choices=DEVICES, default="raspberry-pi-5", help="whose energy is modelled")
    made.add_argument(
        "--conditions", nargs="+", type=int, choices=range(len(CONDITIONS)), default=[0, 1], metavar="N"
    )
    made.add_argument("--answers", type=int, default=12, metavar="N", help="per run")
    return made


def per_token(answers: Sequence[Answer]) -> float:
    """Joules per token of a run."""
    return sum(one.joules or 0.0 for one in answers) / sum(one.tokens for one in answers)


def tpot(answer: Answer) -> float:
    """Seconds per token after the first piece; 0 for an answer of one token."""
    return (answer.seconds - answer.first) / max(1, answer.tokens - 1)


def outcomes(
    run: Callable[[Callable[[], Policy]], Sequence[Answer]], energy: ModelledEnergy, policies: Sequence[str]
) -> Mapping[str, list[Outcome]]:
    """Of the budgets of each policy, and of the targets, over one link.

    Args:
        run: has answers written by a policy, the same ones each time.
        energy: of the device.
        policies: their names.
    """
    fixed = [run(lambda plan=plan: FixedPolicy(plan)) for plan in fixed_plans().values()]  # type: ignore[misc]
    least = min(map(per_token, fixed))
    quickest = min(fixed, key=lambda one: sum(map(tpot, one)))
    mean = sum(map(tpot, quickest)) / len(quickest)

    def limited(name: str, limits: Limits) -> Sequence[Answer]:
        return run(lambda: WithinLimits(POLICIES[name](BASE), BASE, limits))

    def budgets(name: str) -> Iterator[Outcome]:
        for level in LEVELS:
            found = limited(name, Limits(energy_budget=level * least, energy=energy))
            (report,) = found[-1].limits
            yield Outcome(ENERGY, level, per_token(found) / (level * least), 1 / level, report.state)

    def targets() -> Iterator[Outcome]:
        for level in LEVELS:
            target = level * mean
            found = limited(ANY, Limits(latency_target=target, energy=energy))
            for one, best in zip(found, quickest, strict=True):
                (report,) = one.limits
                yield Outcome(LATENCY, level, tpot(one) / target, tpot(best) / target, report.state)

    return {**{name: list(budgets(name)) for name in policies}, "any": list(targets())}


def summary(found: Mapping[str, Sequence[Outcome]]) -> str:
    """A table: for each limit, level and policy what was kept, of all and of what could be."""
    heads = ["limit", "policy", "runs", "possible", "kept of these", "worst of these", "not kept", "said"]
    lines = []
    for limit in (ENERGY, LATENCY):
        for level in LEVELS:
            for policy, all_of in found.items():
                of = [one for one in all_of if (one.limit, one.level) == (limit, level)]
                if not of:
                    continue
                can = [one for one in of if one.best <= 1]
                broken = [one for one in of if one.ratio > 1]
                worst = f"{max(one.ratio for one in can):.2f}" if can else None
                kept = sum(one.ratio <= 1 for one in can)
                said = sum(one.state != "kept" for one in broken)
                lines.append(
                    [f"{limit} {level:g}", policy, len(of), len(can), kept, worst, len(broken), said]
                )
    return table(heads, lines)


def measure(options: Namespace) -> int:
    """Simulate and print.

    Raises:
        FlexSpecError: a file cannot be read, or an answer is wrong.
    """
    began = time.perf_counter()
    recording, times = read_recording(options.recording), read_times(options.times)
    presets = built_in()
    device = presets.device(options.device)
    energy = ModelledEnergy(options.device, device.power, presets.radio(device.radio).power, 1)
    names = options.links or link_names(None)
    conditions = list(CONDITIONS.items())
    rows: dict[str, Any] = {}
    found: dict[str, list[Outcome]] = {}
    for number in options.conditions:
        title, condition = conditions[number]
        for name in names[:1] if options.quick else names:
            link = link_plan(name, options.seed, None)
            setting = setting_of(recording, times, link, condition, seed=options.seed, energy=energy)
            of = outcomes(asked(setting, link, options.answers).answers, energy, COMPARED)
            rows[f"{title}; {name}"] = {policy: [asdict(one) for one in of[policy]] for policy in of}
            for policy in of:
                found.setdefault(policy, []).extend(of[policy])
    print(summary(found))
    print(f"\n{options.device}; {time.perf_counter() - began:.0f} s")
    finish("limits", rows, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
