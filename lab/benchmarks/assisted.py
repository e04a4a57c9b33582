"""Is the exported draft an ordinary assistant? transformers' own assisted generation beside ours, same prompts.

transformers loads target and export by itself and generates with `assistant_model`, K candidates a round, no schedule
and no confidence threshold. At temperature 0 ours are rounds of the product, without lookup and without the early
stop; the texts must be equal but where two tokens nearly tie, as transformers' verification depends on shapes. Above
0 transformers does rejection sampling, so ours is the textbook sampler of `lab.benchmarks.coupling`.

Differences are transformers' less ours, with 95 % intervals by the bootstrap over questions. Met is the bar at a
temperature where the interval of the difference in acceptance holds 0 or the difference is below a point.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from flexspec_mq.models.draft.default import default_draft_path
from flexspec_mq.models.invariance.proof import Provable
from flexspec_mq.models.load import resolve
from flexspec_mq.models.runner import ModelInput, to_numpy
from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Interval
from lab.benchmarks._common import finish, table
from lab.benchmarks.parts.rounds import Job, Rounds, Tally
from lab.benchmarks.pricing import gaps, setup
from lab.benchmarks.pricing.asked import ALL, chosen_questions, say
from lab.benchmarks.pricing.assistant import AssistedRounds
from lab.benchmarks.pricing.rejection import RejectionRounds, read
from lab.benchmarks.pricing.setup import Models, Progress

QUICK_QUESTIONS, QUICK_TOKENS = 5, 12
BAR_POINTS = 1.0
NEAR_TIE = 0.5
"""Difference of two logits below which bfloat16 sums in another order may change which is larger."""


@dataclass(slots=True)
class Found:
    """Both ways on one question at one temperature.

    Attributes:
        ours, theirs: rounds.
        margins: of texts at temperature 0 that differ, how far apart the target's logits of the two tokens are.
    """

    ours: Tally = field(default_factory=Tally)
    theirs: Tally = field(default_factory=Tally)
    margins: list[float] = field(default_factory=list)


Results = dict[float, dict[str, Found]]


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = setup.base_parser(__doc__ or "", temperatures=(0.0, 0.7))
    made.add_argument("--repeats", type=int, default=1, help="seeds per question and temperature")
    made.add_argument("--attention", default="sdpa", help="implementation in transformers' own run")
    return made


def run(jobs: Sequence[Sequence[Job]], models: Models, theirs: AssistedRounds, options: Namespace) -> Results:
    """Write all texts both ways."""
    found: Results = {}
    texts: dict[tuple[str, int], tuple[int, ...]] = {}
    total = sum(map(len, jobs))
    progress = Progress("ours", total)

    def of(job: Job) -> Found:
        return found.setdefault(job.identity.temperature, {}).setdefault(job.name, Found())

    def by_us(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        of(job).ours.add(tally)
        if job.identity.temperature == 0.0:
            texts[job.name, job.identity.seed] = tokens
        progress.step()

    def by_them(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        one = of(job)
        one.theirs.add(tally)
        if job.identity.temperature == 0.0:
            one.margins += margin(models.target.model, job.prompt, texts[job.name, job.identity.seed], tokens)
        progress.step()

    greedy = [kept for series in jobs if (kept := [job for job in series if job.identity.temperature == 0.0])]
    sampled = [kept for series in jobs if (kept := [job for job in series if job.identity.temperature > 0.0])]
    target, k, at_once = models.target.model, options.k, options.at_once
    Rounds(EngineCore(target), models.drafter, Plan(k), at_once=at_once).run(greedy, by_us)
    RejectionRounds(target, models.draft, k=k, at_once=at_once).run(sampled, by_us)
    progress = Progress("transformers", total)
    theirs.run(jobs, by_them)
    return found


def margin(
    target: Provable, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]
) -> list[float]:
    """How far apart the target's logits of the first two tokens that differ are; empty when none does.

    A text that ends where the other goes on differs there by infinity.
    """
    if tuple(ours) == tuple(theirs):
        return []
    common = next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    if common == min(len(ours), len(theirs)):
        return [float("inf")]
    context = [*prompt, *ours[:common]]
    kv = target.new_kv()
    read(target, kv, context[:-1])
    logits = to_numpy(target.forward([ModelInput(kv, context[-1:])]))[0]
    return [float(abs(logits[ours[common]] - logits[theirs[common]]))]


def met(gap: Interval) -> bool:
    """Whether a difference in acceptance is within the noise, or too small to matter."""
    return gap.holds_zero or abs(gap.value) < BAR_POINTS / 100


def compare(found: Sequence[Found], k: int, seed: int) -> dict[str, Any]:
    """Figures of both ways and their differences."""
    ours, theirs = [one.ours for one in found], [one.theirs for one in found]
    differences = gaps.differences(ours, theirs, k, seed=seed)
    return {
        "ours": gaps.figures(ours),
        "transformers": gaps.figures(theirs),
        "gap": gaps.in_json(differences),
        "met": met(differences["acceptance"]),
    }


def show(temperature: float, categories: dict[str, Any]) -> None:
    """Print the table of one temperature."""
    rows = [
        [
            name,
            *(one[way]["texts"] for way in ("ours",)),
            *(100 * one[way]["acceptance"] for way in ("ours", "transformers")),
            bootstrap.shown(one["gap"]["acceptance"]),
            *(one[way]["tokens_per_round"] for way in ("ours", "transformers")),
            bootstrap.shown(one["gap"]["tokens_per_round"], "+.3f"),
        ]
        for name, one in categories.items()
    ]
    print(f"T = {temperature:g}, ours by {'the product' if temperature == 0.0 else 'rejection sampling'}")
    headers = ["", "texts", "accepted, %: ours", "transformers", "points", "tokens/round: ours"]
    print(table([*headers, "transformers", "difference"], rows))
    print()


def ties(found: dict[str, Found]) -> dict[str, Any]:
    """How many texts at temperature 0 differ, whether near ties explain it, and the rounds of all other questions."""
    margins = np.array([margin for one in found.values() for margin in one.margins])
    return {
        "texts": sum(one.ours.texts for one in found.values()),
        "differ": len(margins),
        "largest_margin": float(margins.max()) if len(margins) else None,
        "no_near_tie": int((margins > NEAR_TIE).sum()),
        "met": not bool((margins > NEAR_TIE).any()),
        "equal": {
            "ours": gaps.figures([one.ours for one in found.values() if not one.margins]),
            "transformers": gaps.figures([one.theirs for one in found.values() if not one.margins]),
        },
    }


def folders(options: Namespace) -> tuple[Path, Path]:
    """Checkpoint folders of target and draft.

    Raises:
        UsageError: one of them is a name on the hub.
        ModelError: there is no such folder.
    """
    target = resolve(options.target, progress=say)
    draft = default_draft_path(say) if options.draft == "default" else resolve(options.draft)
    if not isinstance(target, Path) or not isinstance(draft, Path):
        raise UsageError(
            "a name on the hub", hint="both models must be folders, so that both sides read the same"
        )
    return target, draft


def measure(options: Namespace) -> int:
    """Measure and print."""
    setup.check(options)
    if options.quick:
        setup.shorten(options, questions=QUICK_QUESTIONS, tokens=QUICK_TOKENS)
    questions, of = chosen_questions(options)
    where = folders(options)
    models = setup.load_models(options)
    theirs = AssistedRounds(*where, k=options.k, dtype=options.dtype, attention=options.attention)
    jobs = setup.make_jobs(questions, models.target.loaded, options, repeats=options.repeats)
    found = run(jobs, models, theirs, options)
    temperatures: dict[str, Any] = {}
    for temperature, by_question in found.items():
        categories = {
            name: compare(group, options.k, options.seed)
            for name, group in setup.by_category(by_question, questions).items()
        }
        show(temperature, categories)
        temperatures[f"{temperature:g}"] = {"categories": categories, "met": categories[ALL]["met"]}
    results: dict[str, Any] = {
        "questions": len(questions),
        "of": of,
        "k": options.k,
        "tokens": options.tokens,
        "repeats": options.repeats,
        "draft": options.draft,
        "attention": options.attention,
        "temperatures": temperatures,
    }
    if 0.0 in found:
        results["texts"] = told = ties(found[0.0])
        print(
            f"T = 0: {told['differ']} of {told['texts']} texts differ somewhere, the logits of the two tokens by "
            f"{told['largest_margin'] or 0.0:.3g} at most; {told['no_near_tie']} are no near tie"
        )
        shares = " and ".join(f"{100 * one['acceptance']:.2f} %" for one in told["equal"].values())
        print(f"where texts are equal, ours and transformers accept {shares}")
    finish("assisted", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
