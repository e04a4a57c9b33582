"""How much of the draft the target accepts: tokens per round by category, acceptance by position, draft time.

Draft and target run in this process, without a network, by the protocol's rules with one batch in flight. The
target answers the first turn of each question; the text is the target's own at every temperature. A round is one
verification: it commits the accepted tokens and one more, but an end of text cuts its last round short. With a head
the target is that version of it, and the draft stays what it was.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import finish, parser, percentile, table
from benchmarks.parts.questions import OWN, Question, read_questions, spread
from benchmarks.parts.rounds import VERSION, Job, Rounds, Tally, work_item
from benchmarks.parts.version import hold_version
from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter, DraftRequest
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from schemas.messages import MAX_DRAFT_TOKENS, PROTOCOL_VERSION, Identity

BAR = 1.6
"""Tokens per round at temperature 0 and K = 4 that the default draft is held to."""
PRICE = 0.1
"""Ten tokens a second, and 10 ms for a drafted one."""
QUICK_QUESTIONS, QUICK_TOKENS = 8, 24
TIMED_TOKENS = 40
ALL = "all"
SHOWN = 4
"""Positions whose survival the table has; the JSON line has all."""

Tallies = dict[float, dict[str, Tally]]


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--draft",
        default="default",
        help="checkpoint folder of the draft, 'default', or with --lookup 'none'",
    )
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument(
        "--head", type=Path, metavar="FOLDER", help="of a head: the target is this version, not the base"
    )
    made.add_argument("--k", type=int, default=4, help="tokens drafted per round at most")
    made.add_argument("--stop", type=float, default=0.0, help="survival below which a batch ends early")
    made.add_argument(
        "--lookup", action=BooleanOptionalAction, default=False, help="draft from each text's own tokens too"
    )
    made.add_argument(
        "--price",
        type=float,
        default=PRICE,
        help="tokens that the system writes while the draft drafts one; what lookup saves (default: %(default)s)",
    )
    made.add_argument("--tokens", type=int, default=160, help="new tokens per answer at most")
    made.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], metavar="T")
    made.add_argument("--top-p", type=float, default=1.0)
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
    if options.price <= 0:
        raise UsageError(
            f"--price {options.price:g} is not above 0", hint="a small one asks the model nearly always"
        )
    if options.draft == "none" and not options.lookup:
        raise UsageError("there is no acceptance without a draft", hint="--lookup drafts without a model")
    if len(set(options.temperatures)) < len(options.temperatures):
        raise UsageError("a temperature is given twice")


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
                PROTOCOL_VERSION,
                loaded.fingerprint,
                temperature,
                0,
                options.top_p,
                seed,
                loaded.eos,
                False,
                options.tokens,
            )
            SamplingParams.of(identity)
            series.append(Job(question.category, prompt, identity))
        jobs.append(series)
    return jobs


def measure_acceptance(jobs: Sequence[Sequence[Job]], rounds: Rounds) -> Tallies:
    """Write all texts; tallies by temperature and category, `ALL` included."""
    tallies: Tallies = defaultdict(lambda: defaultdict(Tally))
    total, written = sum(map(len, jobs)), 0
    began = said = time.monotonic()

    def done(job: Job, _tokens: tuple[int, ...], tally: Tally) -> None:
        nonlocal said, written
        written += 1
        for name in (job.name, ALL):
            tallies[job.identity.temperature][name].add(tally)
        if time.monotonic() - said > 10 or written == total:
            said = time.monotonic()
            say(f"{written} of {total} texts, {said - began:.0f} s")

    rounds.run(jobs, done)
    return tallies


def measure_time(jobs: Sequence[Job], engine: EngineCore, drafter: Drafter) -> dict[str, float]:
    """Median milliseconds of one token of one session alone, of the draft and of the target, in turns."""
    times: dict[str, list[float]] = {"draft": [], "target": []}
    session = -1
    for job in jobs:
        context = list(job.prompt)
        for count in range(TIMED_TOKENS + 1):
            if len(context) - len(job.prompt) >= job.identity.limit:
                break
            began = time.perf_counter()
            drafted = drafter.draft([DraftRequest(session, context, job.identity, len(context))])
            middle = time.perf_counter()
            engine.scheduler.add(work_item(session, job, context, ()))
            ((_, decided),) = engine.step()
            ended = time.perf_counter()
            if count and drafted[0]:  # the first one reads the prompt
                times["draft"].append(1e3 * (middle - began))
                times["target"].append(1e3 * (ended - middle))
            context += decided
        drafter.free(session)
        engine.scheduler.free(("bench", session))
    return {name: percentile(values, 0.5) for name, values in times.items() if values}


def figures(tally: Tally) -> dict[str, Any]:
    """A tally as the JSON line gives it."""
    return {
        "texts": tally.texts,
        "tokens": tally.tokens,
        "rounds": tally.rounds,
        "tokens_per_round": tally.tokens_per_round,
        "survival": tally.survival,
        "drafted": tally.drafted,
        "accepted": tally.accepted,
        "acceptance": tally.accepted / max(1, tally.drafted),
        "empty_rounds": tally.empty / max(1, tally.rounds),
        "judged": tally.judged,
        "expected": tally.expected,
        "origins": {
            "model": (tally.accepted - tally.looked_up_accepted) / max(1, tally.tokens),
            "lookup": tally.looked_up_accepted / max(1, tally.tokens),
            "target": (tally.tokens - tally.accepted) / max(1, tally.tokens),
        },
        "drafted_by_lookup": tally.looked_up,
    }


def show(tallies: Tallies, k: int) -> None:
    """Print one table per temperature."""
    shown = min(k, SHOWN)
    headers = (
        *("category", "texts", "tokens", "tokens/round", "accepted/drafted", "empty rounds"),
        *("by model", "by lookup", "confidence/was"),
        *(f"S{position + 1}" for position in range(shown)),
    )
    for temperature, by_category in tallies.items():
        names = [*sorted(name for name in by_category if name != ALL), ALL]
        rows: list[list[Any]] = []
        for name in names:
            tally = by_category[name]
            share = [*tally.survival[:shown], *[None] * (shown - len(tally.survival))]
            found = figures(tally)
            rows.append(
                [
                    *(name, tally.texts, tally.tokens, tally.tokens_per_round, found["acceptance"]),
                    *(found["empty_rounds"], found["origins"]["model"], found["origins"]["lookup"]),
                    tally.expected / max(1, tally.accepted),
                    *share,
                ]
            )
        print(f"T = {temperature:g}")
        print(table(headers, rows))
        print()


def say(text: str) -> None:
    """Tell people how far things are."""
    print(text, file=sys.stderr, flush=True)


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        options.tokens = min(options.tokens, QUICK_TOKENS)
        options.questions = min(options.questions or QUICK_QUESTIONS, QUICK_QUESTIONS)
    read = read_questions(options.prompts or OWN)
    questions = spread(read, options.questions or len(read))
    common = {"dtype": options.dtype, "threads": options.threads}
    worker = WorkerSettings(target=options.target, worker="bench", **common)
    target = cloud_target.load(worker, say)
    version = hold_version(target, worker, options.head)
    draft = draft_model.load(
        EdgeSettings(edge="bench", draft=options.draft, lookup=options.lookup, **common), say
    )
    if draft.drafter is None or draft.loaded.fingerprint != target.loaded.fingerprint:
        raise FingerprintError("draft and target have different tokenizers")
    jobs = make_jobs(questions, target.loaded, options)
    engine = EngineCore(target.model)
    engine.scheduler.heads[VERSION] = version.head
    timed = [series[0] for series in spread(jobs, 1 if options.quick else 4)]
    whole = EngineCore(target.model, prefill=2**20)  # reads a prompt in one forward
    whole.scheduler.heads[VERSION] = version.head
    times = measure_time(timed, whole, draft.model) if draft.model is not None else {}
    plan = Plan(options.k, confidence_threshold=options.stop)
    rounds = Rounds(engine, draft.drafter, plan, at_once=options.at_once, price=options.price)
    tallies = measure_acceptance(jobs, rounds)
    show(tallies, options.k)
    for name, value in times.items():
        print(f"{name}: {value:.1f} ms per token of one session alone")
    greedy = tallies[0.0][ALL].tokens_per_round if 0.0 in tallies else None
    results: dict[str, Any] = {
        "questions": len(questions),
        "of": len(read),
        "k": options.k,
        "stop": options.stop,
        "lookup": options.lookup,
        "price": options.price,
        "tokens": options.tokens,
        "top_p": options.top_p,
        "head": version.digest,
        "exact": version.exact,
        "temperatures": {
            f"{temperature:g}": {name: figures(tally) for name, tally in by_category.items()}
            for temperature, by_category in tallies.items()
        },
        "ms_per_token": times,
        "bar": {"tokens_per_round": greedy, "least": BAR, "met": greedy is not None and greedy >= BAR},
    }
    finish("acceptance", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
