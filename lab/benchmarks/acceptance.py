"""Acceptance: tokens per round by category, survival by position, and the time of a drafted token.

Draft and target run in this process, without a network, by the protocol's rules with one batch in flight. The target
answers the first turn of each question; the text is the target's own at every temperature. A round is one
verification: it commits the accepted tokens and one more, but an end of text cuts its last round short. Several
drafts are compared on the same texts, with 95 % intervals by the bootstrap over questions.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter, DraftRequest
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from lab.bench import bootstrap
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks._common import finish, parser, percentile, say, table
from lab.benchmarks.rounds import Job, Rounds, RoundTally, work_item
from schemas.messages import MAX_DRAFT_TOKENS, PROTOCOL_VERSION, Identity

BAR = 1.6
"""Tokens per round at temperature 0 and K = 4 that the default draft is held to."""
QUICK_QUESTIONS, QUICK_TOKENS = 8, 24
TIMED_TOKENS = 40
ALL, TARGET = "all", "target"
SHOWN = 4
"""Positions whose survival the table has; the JSON line has all."""

Tallies = dict[Job, RoundTally]


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--draft",
        nargs="+",
        default=["default"],
        help="folders of drafts, or 'default'; several are compared",
    )
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--k", type=int, default=4, help="tokens drafted per round")
    made.add_argument("--tokens", type=int, default=160, help="new tokens per answer at most")
    made.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], metavar="T")
    made.add_argument("--questions", type=int, metavar="N", help="only N of the questions, evenly spaced")
    made.add_argument("--at-once", type=int, default=16, help="texts that share the forwards")
    made.add_argument("--dtype", default="bfloat16", help="of draft and target")
    made.add_argument("--threads", type=int, default=1, help="of torch")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("tokens", "at_once", "questions"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {value} is less than 1")
    if not 0 <= options.k <= MAX_DRAFT_TOKENS:
        raise UsageError(f"--k {options.k} is not between 0 and {MAX_DRAFT_TOKENS}")
    for flag in ("draft", "temperatures"):
        if len(set(getattr(options, flag))) < len(getattr(options, flag)):
            raise UsageError(f"--{flag} names something twice")
    if "none" in options.draft:
        raise UsageError("there is no acceptance without a draft")


def make_jobs(questions: Sequence[Question], loaded: LoadedText, options: Namespace) -> list[list[Job]]:
    """For each question, one text per temperature. Seeds come from ``--seed`` and the question's place.

    Raises:
        UsageError: a question and its answer do not fit the context, or no text can be sampled like this.
    """
    jobs = []
    for place, question in enumerate(questions):
        prompt = encode_turns(
            loaded.tokenizer, [Turn("user", question.text)], max_context=loaded.max_context - options.tokens
        )
        seed = random.Random(f"{options.seed} {place}").getrandbits(64)
        series = []
        for temperature in options.temperatures:
            identity = Identity(
                PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, seed, loaded.eos, False, options.tokens
            )  # fmt: skip
            SamplingParams.of(identity)
            series.append(Job(question.category, prompt, identity))
        jobs.append(series)
    return jobs


def measure_acceptance(jobs: Sequence[Sequence[Job]], rounds: Rounds) -> Tallies:
    """Write all texts, and count the rounds of each."""
    tallies: Tallies = {}
    total, said = sum(map(len, jobs)), time.monotonic()
    began = said

    def done(job: Job, _tokens: tuple[int, ...], tally: RoundTally) -> None:
        nonlocal said
        tallies[job] = tally
        if time.monotonic() - said > 10 or len(tallies) == total:
            said = time.monotonic()
            say(f"{len(tallies)} of {total} texts, {said - began:.0f} s")

    rounds.run(jobs, done)
    return tallies


def load_drafter(name: str, options: Namespace, target: LoadedText) -> Drafter:
    """A draft as an edge node runs it.

    Raises:
        FingerprintError: the target has another tokenizer.
    """
    settings = EdgeSettings(
        edge="bench", draft=name, lookup=False, dtype=options.dtype, threads=options.threads
    )
    draft = draft_model.load(settings, say)
    if (
        draft.drafter is None
        or draft.loaded.tokenizer_status.vocabulary != target.tokenizer_status.vocabulary
    ):
        raise FingerprintError("draft and target have different tokenizers")
    return draft.drafter


def measure_time(
    jobs: Sequence[Job], engine: ModelEngine, drafters: Mapping[str, Drafter]
) -> dict[str, float]:
    """Median milliseconds of one token of one session alone, of each draft and of the target, in turns."""
    times: dict[str, list[float]] = {name: [] for name in (*drafters, TARGET)}
    session = -1
    for job in jobs:
        context = list(job.prompt)
        for count in range(TIMED_TOKENS + 1):
            if len(context) - len(job.prompt) >= job.identity.limit:
                break
            for name, drafter in drafters.items():
                began = time.perf_counter()
                drafted = drafter.draft([DraftRequest(session, context, job.identity, len(context))])
                if count and drafted[0]:  # the first one reads the prompt
                    times[name].append(1e3 * (time.perf_counter() - began))
            began = time.perf_counter()
            engine.scheduler.add(work_item(session, job, context, ()))
            ((_, decided),) = engine.step().decided
            if count:
                times[TARGET].append(1e3 * (time.perf_counter() - began))
            context += decided
        for drafter in drafters.values():
            drafter.free(session)
        engine.scheduler.free(("bench", session))
    return {name: percentile(values, 0.5) for name, values in times.items() if values}


def figures(tallies: Tallies) -> dict[str, dict[str, dict[str, Any]]]:
    """Sums by temperature and category, `ALL` included, as the JSON line gives them."""
    sums: dict[str, dict[str, RoundTally]] = defaultdict(lambda: defaultdict(RoundTally))
    for job, tally in tallies.items():
        for name in (job.name, ALL):
            sums[f"{job.identity.temperature:g}"][name].add(tally)
    return {
        temperature: {
            name: {
                "texts": tally.texts,
                "tokens": tally.tokens,
                "rounds": tally.rounds,
                "tokens_per_round": tally.tokens_per_round,
                "survival": tally.survival,
                "drafted": tally.drafted,
                "accepted": tally.accepted,
                "acceptance": tally.accepted / max(1, tally.drafted),
            }
            for name, tally in by_category.items()
        }
        for temperature, by_category in sums.items()
    }


def intervals(tallies: Tallies, first: Tallies, seed: int) -> dict[str, dict[str, list[float | None]]]:
    """By temperature: tokens per round, acceptance, and tokens per round as a share of the first draft's."""
    found = {}
    for temperature in dict.fromkeys(job.identity.temperature for job in tallies):
        rows = np.array(
            [
                [
                    *(one.tokens, one.rounds, one.accepted, one.drafted),
                    *(first[job].tokens, first[job].rounds),
                ]
                for job, one in tallies.items()
                if job.identity.temperature == temperature
            ],
            dtype=np.float64,
        )
        statistics = {
            "tokens_per_round": lambda s: s[..., 0] / s[..., 1],
            "acceptance": lambda s: s[..., 2] / np.maximum(1, s[..., 3]),
            "of_first": lambda s: s[..., 0] / s[..., 1] / (s[..., 4] / s[..., 5]),
        }
        found[f"{temperature:g}"] = {
            name: bootstrap.of_sums(rows, statistic, seed=seed) for name, statistic in statistics.items()
        }
    return found


def show(by_temperature: Mapping[str, Mapping[str, Mapping[str, Any]]], k: int) -> None:
    """Print one table per temperature."""
    shown = min(k, SHOWN)
    headers = ("category", "texts", "tokens", "tokens/round", "accepted/drafted")
    for temperature, by_category in by_temperature.items():
        rows: list[list[Any]] = []
        for name in [*sorted(name for name in by_category if name != ALL), ALL]:
            one = by_category[name]
            survival = [*one["survival"][:shown], *[None] * (shown - len(one["survival"]))]
            row = [name, *(one[key] for key in ("texts", "tokens", "tokens_per_round", "acceptance"))]
            rows.append([*row, *survival])
        print(f"T = {temperature}")
        print(table((*headers, *(f"S{position + 1}" for position in range(shown))), rows))
        print()


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        options.tokens = min(options.tokens, QUICK_TOKENS)
        options.questions = min(options.questions or QUICK_QUESTIONS, QUICK_QUESTIONS)
    read = read_questions(options.prompts or OWN)
    questions = spread(read, options.questions or len(read))
    worker = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(worker, say)
    drafters = {name: load_drafter(name, options, target.loaded) for name in options.draft}
    jobs = make_jobs(questions, target.loaded, options)
    engine = ModelEngine(target.model)
    whole = ModelEngine(target.model, prefill=2**20)  # reads a prompt in one forward
    timed = [series[0] for series in spread(jobs, 1 if options.quick else 4)]
    times = measure_time(timed, whole, drafters)
    tallies = {
        name: measure_acceptance(jobs, Rounds(engine, drafter, options.k, at_once=options.at_once))
        for name, drafter in drafters.items()
    }
    first = next(iter(tallies.values()))
    drafts = {name: intervals(one, first, options.seed) for name, one in tallies.items()}
    for name, one in tallies.items():
        print(f"draft {name}")
        show(figures(one), options.k)
    rows = [
        [name, temperature, *map(bootstrap.shown, ends.values()), times.get(name)]
        for name, by_temperature in drafts.items()
        for temperature, ends in by_temperature.items()
    ]
    print(table(("draft", "T", "tokens/round", "accepted/drafted", "of the first draft", "ms/token"), rows))
    print(f"\ntarget: {times[TARGET]:.1f} ms per token of one session alone")
    temperatures = figures(first)
    greedy = temperatures["0"][ALL]["tokens_per_round"] if "0" in temperatures else None
    results: dict[str, Any] = {
        "questions": len(questions),
        "of": len(read),
        "k": options.k,
        "tokens": options.tokens,
        "exact": target.proof.exact,
        "temperatures": temperatures,
        "ms_per_token": times,
        "drafts": drafts,
        "bar": {"tokens_per_round": greedy, "least": BAR, "met": greedy is not None and greedy >= BAR},
    }
    finish("acceptance", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
