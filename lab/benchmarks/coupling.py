"""What it costs in acceptance to send no probabilities: common random numbers against rejection sampling.

Same models, same prompts, several seeds. Both ways write text of exactly the target's distribution, but not the same
text. Two comparisons at each temperature:

- expected: on the same contexts, the positions of texts that the target wrote, with p and q after temperature and
  top-p: the probability that a guess is accepted by either way, exactly, and the bound (1 - TV) / (1 + TV)
- rounds: both ways really write, in rounds of K: the product's code, and a textbook rejection sampler

Gaps are rejection less coupling, with 95 % intervals by the bootstrap over questions.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cloud_worker.engine.engine import EngineCore
from flexspec_mq.codec import Codec
from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Floats
from lab.bench.traditional.rejection import probabilities
from lab.benchmarks._common import finish, table
from lab.benchmarks.parts.rounds import Job, Rounds, Tally
from lab.benchmarks.pricing import gaps, setup
from lab.benchmarks.pricing.asked import ALL, chosen_questions
from lab.benchmarks.pricing.overlap import (
    coupling_acceptance,
    coupling_bound,
    rejection_acceptance,
)
from lab.benchmarks.pricing.rejection import RejectionRounds, read
from lab.benchmarks.pricing.setup import Models, Progress
from schemas.messages import Draft

QUICK_QUESTIONS, QUICK_TOKENS = 6, 16
COUPLING, REJECTION = "coupling", "rejection"
FP16_BYTES = 2
_ROWS = 64
"""Positions that one forward replays; their logits are held together."""


@dataclass(slots=True)
class Found:
    """All about one question at one temperature.

    Attributes:
        positions: of target-written texts that were looked at.
        accepted: sums over them of the expected acceptance by coupling and by rejection, and of the bound.
        kept: sum over them of the tokens that top-p leaves of q.
        coupling: rounds of the product.
        rejection: rounds of the baseline.
    """

    positions: int = 0
    accepted: Floats = field(default_factory=lambda: np.zeros(3))
    kept: int = 0
    coupling: Tally = field(default_factory=Tally)
    rejection: Tally = field(default_factory=Tally)


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = setup.base_parser(__doc__ or "", temperatures=(0.7, 1.0))
    made.add_argument("--top-p", type=float, default=1.0)
    made.add_argument("--repeats", type=int, default=2, help="seeds per question, temperature and way")
    return made


class Comparison:
    """Runs both ways and keeps what came of it.

    Args:
        models: draft and target.
        k: tokens drafted per round.
        at_once: texts that share the forwards.

    Attributes:
        found: by temperature and question.
        texts: written by the target with common random numbers.
    """

    def __init__(self, models: Models, *, k: int, at_once: int) -> None:
        self._models = models
        self._coupling = Rounds(EngineCore(models.target.model), models.drafter, Plan(k), at_once=at_once)
        self._rejection = RejectionRounds(models.target.model, models.draft, k=k, at_once=at_once)
        self.found: dict[float, dict[str, Found]] = {}
        self.texts: list[tuple[int, ...]] = []

    def run(self, jobs: Sequence[Sequence[Job]]) -> None:
        """Write every text both ways, and replay those of the coupling."""
        progress = Progress(COUPLING, sum(map(len, jobs)))

        def by_coupling(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
            found = self._of(job)
            found.coupling.add(tally)
            self._replay(job, tokens, found)
            self.texts.append(tokens)
            progress.step()

        def by_rejection(job: Job, _tokens: tuple[int, ...], tally: Tally) -> None:
            self._of(job).rejection.add(tally)
            progress.step()

        self._coupling.run(jobs, by_coupling)
        progress = Progress(REJECTION, sum(map(len, jobs)))
        self._rejection.run(jobs, by_rejection)

    def _of(self, job: Job) -> Found:
        return self.found.setdefault(job.identity.temperature, {}).setdefault(job.name, Found())

    def _replay(self, job: Job, tokens: Sequence[int], found: Found) -> None:
        params = SamplingParams.of(job.identity)
        models = (self._models.target.model, self._models.draft)
        kvs = [model.new_kv() for model in models]
        context = [*job.prompt, *tokens[:-1]]
        for begin in range(len(job.prompt) - 1, len(context), _ROWS):
            piece = context[begin : begin + _ROWS]
            logits = []
            for model, kv in zip(models, kvs, strict=True):
                read(model, kv, context[:begin])
                logits.append(to_numpy(model.forward([ModelInput(kv, piece, len(piece))])))
            for target_row, draft_row in zip(*logits, strict=True):
                p, q = probabilities(target_row, params), probabilities(draft_row, params)
                accepted = (coupling_acceptance(p, q), rejection_acceptance(p, q), coupling_bound(p, q))
                found.accepted += np.array(accepted)
                found.kept += int((q > 0.0).sum())
            found.positions += len(piece)


def draft_bytes(texts: Sequence[Sequence[int]], k: int) -> float | None:
    """Mean payload of a `Draft` of `k` tokens out of such texts, in bytes: all that coupling sends up in a round."""
    sizes, codec = [], Codec()
    for text in texts:
        for seq, begin in enumerate(range(0, len(text) - k, k), start=1):
            draft = Draft(0x7FFF_FFFF, 1, seq, begin, 0, 0x7FFF_FFFF, tuple(text[begin : begin + k]), 0)
            sizes.append(len(codec.encode(draft)))
    return float(np.mean(sizes)) if sizes else None


def expected(found: Sequence[Found], seed: int) -> dict[str, Any]:
    """Acceptance in expectation on the same contexts, and the gap."""
    rows = np.array([[one.positions, *one.accepted] for one in found])
    positions, *sums = rows.sum(0)
    gap = bootstrap.of_sums(rows, lambda drawn: (drawn[:, 2] - drawn[:, 1]) / drawn[:, 0], seed=seed)
    means = {
        name: float(value / positions)
        for name, value in zip((COUPLING, REJECTION, "bound"), sums, strict=True)
    }
    kept = sum(one.kept for one in found) / float(positions)
    return {"positions": int(positions), **means, "gap_points": gap.scaled(100), "draft_keeps": kept}


def rounds(found: Sequence[Found], k: int, seed: int) -> dict[str, Any]:
    """What rounds came to, both ways, and the gaps."""
    coupling, rejection = [one.coupling for one in found], [one.rejection for one in found]
    return {
        COUPLING: gaps.figures(coupling),
        REJECTION: gaps.figures(rejection),
        "gap": gaps.in_json(gaps.differences(coupling, rejection, k, seed=seed)),
    }


def show(temperature: str, results: dict[str, Any], k: int) -> None:
    """Print the tables of one temperature."""
    rows: list[list[Any]] = []
    for name, one in results["categories"].items():
        said, done = one["expected"], one["rounds"]
        rows.append(
            [
                name,
                said["positions"],
                *(100 * said[key] for key in (COUPLING, REJECTION, "bound")),
                bootstrap.shown(said["gap_points"]),
                *(done[way]["tokens_per_round"] for way in (COUPLING, REJECTION)),
                *(100 * done[way]["acceptance"] for way in (COUPLING, REJECTION)),
                bootstrap.shown(done["gap"]["acceptance"]),
            ]
        )
    headers = ["", "positions", "expected: coupling", "rejection", "bound", "gap, points"]
    headers += ["tokens/round: coupling", "rejection", "accepted: coupling", "rejection", "gap, points"]
    print(f"T = {temperature}")
    print(table(headers, rows))
    print()
    done = results["categories"][ALL]["rounds"]
    rows = [
        [
            f"S{place + 1}",
            *(100 * done[way]["survival"][place] for way in (COUPLING, REJECTION)),
            bootstrap.shown(done["gap"][f"S{place + 1}"]),
        ]
        for place in range(min(k, len(done[COUPLING]["survival"]), len(done[REJECTION]["survival"])))
    ]
    rows.append(
        [
            "tokens/round",
            *(done[way]["tokens_per_round"] for way in (COUPLING, REJECTION)),
            bootstrap.shown(done["gap"]["tokens_per_round"]),
        ]
    )
    print(table(["", COUPLING, REJECTION, "gap"], rows))
    print()


def measure(options: Namespace) -> int:
    """Measure and print."""
    setup.check(options)
    if min(options.temperatures) <= 0.0:
        raise UsageError(
            f"temperature {min(options.temperatures):g} is not above 0",
            hint="without sampling both ways accept the same tokens",
        )
    if options.quick:
        setup.shorten(options, questions=QUICK_QUESTIONS, tokens=QUICK_TOKENS)
        options.repeats = 1
    questions, of = chosen_questions(options)
    models = setup.load_models(options)
    loaded = models.target.loaded
    jobs = setup.make_jobs(questions, loaded, options, top_p=options.top_p, repeats=options.repeats)
    comparison = Comparison(models, k=options.k, at_once=options.at_once)
    comparison.run(jobs)
    temperatures: dict[str, Any] = {}
    for temperature, found in comparison.found.items():
        name = f"{temperature:g}"
        temperatures[name] = {
            "categories": {
                category: {
                    "expected": expected(group, options.seed),
                    "rounds": rounds(group, options.k, options.seed),
                }
                for category, group in setup.by_category(found, questions).items()
            }
        }
        show(name, temperatures[name], options.k)
    ids = draft_bytes(comparison.texts, options.k)
    full = options.k * loaded.vocab_size * FP16_BYTES
    if ids is not None:
        print(
            f"payload up per round of {options.k}: {ids:.1f} bytes with ids, {full + ids:.0f} with q in fp16"
        )
    results = {
        "questions": len(questions),
        "of": of,
        "k": options.k,
        "tokens": options.tokens,
        "top_p": options.top_p,
        "repeats": options.repeats,
        "draft": options.draft,
        "bytes_up_per_round": {"ids": ids, "q_fp16": full},
        "temperatures": temperatures,
    }
    finish("coupling", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
