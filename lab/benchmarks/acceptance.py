"""How much of the draft the target accepts: tokens per round by category, acceptance by position, draft time.

Draft and target run in this process, without a network, by the protocol's rules with one batch in flight. The
target answers the first turn of each question; the text is the target's own at every temperature. A round is one
verification: it commits the accepted tokens and one more, but an end of text cuts its last round short. With a head
the target is that version of it, and the draft stays what it was.

Several drafts are compared on the same texts, which are written once: a draft changes no text. Without ``--stop`` and
lookups each draft but the one that the texts were written with reads them in one forward each; then only what is
drafted behind a wrong token may differ. Intervals (95 %) are by the bootstrap over questions. With ``--beside`` the
table says what each draft keeps of its tokens per round there.
"""

from __future__ import annotations

import random
import sys
import time
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import EngineCore
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import Plan
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter, DraftRequest
from flexspec_mq.drafting.load import DraftModel
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks._common import finish, parser, percentile, table
from lab.benchmarks.parts.compared import compare, read_sums, show_compared
from lab.benchmarks.parts.kept_texts import keep_texts, read_texts
from lab.benchmarks.parts.read_ahead import ReadAhead
from lab.benchmarks.parts.rounds import VERSION, AnyRounds, Job, ReplayedRounds, Rounds, Tally, work_item
from lab.benchmarks.parts.version import hold_version
from schemas.messages import MAX_DRAFT_TOKENS, PROTOCOL_VERSION, Identity

BAR = 1.6
"""Tokens per round at temperature 0 and K = 4 that the default draft is held to."""
PRICE = 0.1
"""Ten tokens a second, and 10 ms for a drafted one."""
QUICK_QUESTIONS, QUICK_TOKENS = 8, 24
TIMED_TOKENS = 40
ALL, TARGET = "all", "target"
SHOWN = 4
"""Positions whose survival the table has; the JSON line has all."""

Tallies = dict[float, dict[str, Tally]]


@dataclass(frozen=True, slots=True)
class Found:
    """What came of all texts with one draft.

    Attributes:
        texts: of each job, what the target wrote.
        tallies: of each job, its rounds.
    """

    texts: dict[Job, tuple[int, ...]] = field(default_factory=dict)
    tallies: dict[Job, Tally] = field(default_factory=dict)

    def by_category(self) -> Tallies:
        """Sums by temperature and category, `ALL` included."""
        sums: Tallies = defaultdict(lambda: defaultdict(Tally))
        for job, tally in self.tallies.items():
            for name in (job.name, ALL):
                sums[job.identity.temperature][name].add(tally)
        return sums

    def by_question(self, jobs: Sequence[Sequence[Job]]) -> dict[str, list[list[int]]]:
        """By temperature: tokens, rounds, drafted and accepted tokens of each question, in their order."""
        sums: dict[str, list[list[int]]] = defaultdict(list)
        for job in (job for series in jobs for job in series):
            tally = self.tallies[job]
            sums[f"{job.identity.temperature:g}"].append(
                [tally.tokens, tally.rounds, tally.drafted, tally.accepted]
            )
        return dict(sums)


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--draft",
        nargs="+",
        default=["default"],
        help="checkpoint folder of the draft, 'default', or with --lookup 'none'; several are compared",
    )
    made.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="the target's texts: read if the file is there, else written and kept",
    )
    made.add_argument(
        "--beside",
        type=Path,
        metavar="FILE",
        help="what the same command printed for another version, its last line",
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
    if len(set(options.draft)) < len(options.draft):
        raise UsageError("a draft is given twice")
    if "none" in options.draft and not options.lookup:
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


def measure_acceptance(jobs: Sequence[Sequence[Job]], rounds: AnyRounds) -> Found:
    """Write or replay all texts, and count."""
    found = Found()
    total, said = sum(map(len, jobs)), time.monotonic()
    began = said

    def done(job: Job, tokens: tuple[int, ...], tally: Tally) -> None:
        nonlocal said
        found.texts[job] = tokens
        found.tallies[job] = tally
        if time.monotonic() - said > 10 or len(found.texts) == total:
            said = time.monotonic()
            say(f"{len(found.texts)} of {total} texts, {said - began:.0f} s")

    rounds.run(jobs, done)
    return found


def load_draft(name: str, options: Namespace, target: LoadedText) -> DraftModel:
    """A draft as an edge node runs it.

    Raises:
        FingerprintError: the target has another tokenizer.
    """
    settings = EdgeSettings(
        edge="bench", draft=name, lookup=options.lookup, dtype=options.dtype, threads=options.threads
    )
    draft = draft_model.load(settings, say)
    if (
        draft.drafter is None
        or draft.loaded.tokenizer_status.vocabulary != target.tokenizer_status.vocabulary
    ):
        raise FingerprintError("draft and target have different tokenizers")
    return draft


def measure_drafts(
    jobs: Sequence[Sequence[Job]],
    engine: EngineCore,
    drafts: Mapping[str, DraftModel],
    options: Namespace,
    head: str | None,
) -> dict[str, Found]:
    """All drafts on the same texts, by name: those of ``--texts``, else what the target writes with the first one.

    Args:
        jobs: the texts.
        engine: writes them.
        drafts: by name.
        options: the command's.
        head: digest of the version, part of what the kept texts are known by.
    """
    plan = Plan(options.k, confidence_threshold=options.stop)
    how: Any = {"at_once": options.at_once, "price": options.price}
    about = {"head": head, "top_p": options.top_p, "tokens": options.tokens, "seed": options.seed}
    written = read_texts(options.texts, jobs, about)
    found: dict[str, Found] = {}
    for name, draft in drafts.items():
        say(f"draft {name}")
        drafter: Drafter | None = draft.drafter
        if drafter is None:
            continue
        if written is not None:
            if draft.model is drafter and not options.stop:
                drafter = ReadAhead(draft.model, written)
            found[name] = measure_acceptance(jobs, ReplayedRounds(written, drafter, plan, **how))
            continue
        found[name] = measure_acceptance(jobs, Rounds(engine, drafter, plan, **how))
        written = found[name].texts
        if options.texts is not None:
            keep_texts(options.texts, jobs, written, about)
    return found


def measure_time(
    jobs: Sequence[Job], engine: EngineCore, drafters: Mapping[str, Drafter]
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
            ((_, decided),) = engine.step()
            if count:
                times[TARGET].append(1e3 * (time.perf_counter() - began))
            context += decided
        for drafter in drafters.values():
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
    beside = read_sums(options.beside)
    questions = spread(read, options.questions or len(read))
    common = {"dtype": options.dtype, "threads": options.threads}
    worker = WorkerSettings(target=options.target, worker="bench", **common)
    target = cloud_target.load(worker, say)
    version = hold_version(target, worker, options.head)
    drafts = {name: load_draft(name, options, target.loaded) for name in options.draft}
    models = {name: draft.model for name, draft in drafts.items() if draft.model is not None}
    jobs = make_jobs(questions, target.loaded, options)
    engine = EngineCore(target.model)
    engine.scheduler.heads[VERSION] = version.head
    timed = [series[0] for series in spread(jobs, 1 if options.quick else 4)]
    whole = EngineCore(target.model, prefill=2**20)  # reads a prompt in one forward
    whole.scheduler.heads[VERSION] = version.head
    times = measure_time(timed, whole, models) if models else {}
    found = measure_drafts(jobs, engine, drafts, options, version.digest)
    tallies = found[options.draft[0]].by_category()
    for name in options.draft:
        if len(found) > 1:
            print(f"draft {name}")
        show(found[name].by_category(), options.k)
    sums = {name: one.by_question(jobs) for name, one in found.items()}
    compared = compare(sums, beside, options.seed)
    show_compared(compared, times)
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
        "drafts": compared,
        "by_question": sums,
        "bar": {"tokens_per_round": greedy, "least": BAR, "met": greedy is not None and greedy >= BAR},
    }
    finish("acceptance", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
