"""Acceptance: tokens per round by category, and the time of a drafted token.

Draft and target run in this process, without a network. The target answers the first turn of each question, the draft
names its token at each place, and rounds are those of one batch in flight: a verification commits the accepted tokens
and one more. Several drafts are compared on the same texts, with 95 % intervals by the bootstrap over questions.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.pair.forecast import Figures, runs
from cloud_worker.pair.measure import Text, measure, write
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.heads.manifest import read_head
from flexspec_mq.models.head_files import DRAFT_FILES, read_weights
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.shape import FAMILIES, HEAD_NORMS, Shape
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import SamplingParams
from lab.bench import bootstrap
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks._common import finish, parser, say, table
from schemas.messages import MAX_DRAFT_TOKENS, PROTOCOL_VERSION, Identity

BAR = 1.6
"""Tokens per round at temperature 0 and K = 4 that the default draft is held to."""
QUICK_QUESTIONS, QUICK_TOKENS = 8, 24
ALL, TARGET, LORA = "all", "target", "with the head's LoRA"


@dataclass(frozen=True, slots=True)
class Job:
    """A text to write, of a question's category."""

    name: str
    text: Text

    @property
    def temperature(self) -> float:
        """Temperature of the text."""
        return self.text.identity.temperature


@dataclass(slots=True)
class RoundTally:
    """Sums over rounds.

    Attributes:
        texts: written to their end.
        tokens: committed.
        rounds: verifications.
        drafted: tokens that were verified.
        accepted: tokens, of these, that are the target's, up to the first of their round that is not.
    """

    texts: int = 0
    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0

    def count(self, right: Sequence[bool], k: int) -> None:
        """Add a text with the verdict on the draft's token at each place."""
        self.texts += 1
        place = 0
        for run in runs(right, k):
            self.rounds += 1
            self.drafted += min(k, len(right) - place - 1)
            self.accepted += run
            place += run + 1
        self.tokens += len(right)

    def add(self, other: RoundTally) -> None:
        """Add the sums of another."""
        self.texts += other.texts
        self.tokens += other.tokens
        self.rounds += other.rounds
        self.drafted += other.drafted
        self.accepted += other.accepted

    @property
    def tokens_per_round(self) -> float:
        """Committed tokens per verification."""
        return self.tokens / max(1, self.rounds)


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
    made.add_argument(
        "--head",
        type=Path,
        metavar="FOLDER",
        help="a head: that version of the target writes the texts; a LoRA of the draft in it is measured beside the "
        "draft",
    )
    made.add_argument("--k", type=int, default=4, help="tokens drafted per round")
    made.add_argument("--tokens", type=int, default=160, help="new tokens per answer at most")
    made.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7], metavar="T")
    made.add_argument("--questions", type=int, metavar="N", help="only N of the questions, evenly spaced")
    made.add_argument("--at-once", type=int, default=16, help="texts that share the forwards")
    made.add_argument("--dtype", default="bfloat16", help="of the target")
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


def make_jobs(questions: Sequence[Question], loaded: LoadedText, options: Namespace) -> list[Job]:
    """A text per question and temperature. Seeds come from ``--seed`` and the question's place.

    Raises:
        UsageError: a question and its answer do not fit the context, or no text can be sampled like this.
    """
    jobs = []
    for place, question in enumerate(questions):
        prompt = encode_turns(
            loaded.tokenizer, [Turn("user", question.text)], max_context=loaded.max_context - options.tokens
        )
        seed = random.Random(f"{options.seed} {place}").getrandbits(64)
        for temperature in options.temperatures:
            identity = Identity(
                PROTOCOL_VERSION, loaded.fingerprint, temperature, 0, 1.0, seed, loaded.eos, False, options.tokens
            )  # fmt: skip
            SamplingParams.of(identity)
            jobs.append(Job(question.category, Text(prompt, identity)))
    return jobs


def write_all(engine: ModelEngine, jobs: Sequence[Job], at_once: int) -> list[Job]:
    """Have the target write all texts, some at once."""
    written = []
    for begin in range(0, len(jobs), at_once):
        some = jobs[begin : begin + at_once]
        texts = write(engine, [job.text for job in some], lambda _: None)
        written += [replace(job, text=text) for job, text in zip(some, texts, strict=True)]
        say(f"{len(written)} of {len(jobs)} texts")
    return written


def tallies_of(jobs: Sequence[Job], figures: Figures, k: int) -> Tallies:
    """Rounds of each text."""
    tallies = {}
    for job, right in zip(jobs, figures.right, strict=True):
        tallies[job] = RoundTally()
        tallies[job].count(right, k)
    return tallies


def load_drafter(name: str, options: Namespace, target: LoadedText, head: Path | None = None) -> Drafter:
    """A draft as an edge node runs it, or with the LoRA of a head as a worker does.

    Raises:
        FingerprintError: the target has another tokenizer.
    """
    settings = EdgeSettings(edge="bench", draft=name, lookup=False, threads=options.threads)
    draft = (
        draft_model.load(settings, say) if head is None else draft_model.load_for_version(settings, head, say)
    )
    if (
        draft.drafter is None
        or draft.loaded.tokenizer_status.vocabulary != target.tokenizer_status.vocabulary
    ):
        raise FingerprintError("draft and target have different tokenizers")
    return draft.drafter


def put_head(engine: ModelEngine, target: cloud_target.Target, folder: Path) -> None:
    """Have the engine write as the version of a head.

    Raises:
        HeadError: the head is damaged.
    """
    manifest = read_head(folder)
    shape = Shape.from_config(target.loaded.config, (*FAMILIES, *HEAD_NORMS))
    target.model.hold(folder.name, read_weights(folder, manifest.kind, shape, manifest.floor))
    engine.hold("base", folder.name)


def by_category(tallies: Tallies) -> dict[str, dict[str, dict[str, Any]]]:
    """Sums by temperature and category, `ALL` included, as the JSON line gives them."""
    sums: dict[str, dict[str, RoundTally]] = defaultdict(lambda: defaultdict(RoundTally))
    for job, tally in tallies.items():
        for name in dict.fromkeys((job.name, ALL)):
            sums[f"{job.temperature:g}"][name].add(tally)
    return {
        temperature: {
            name: {
                "texts": tally.texts,
                "tokens": tally.tokens,
                "rounds": tally.rounds,
                "tokens_per_round": tally.tokens_per_round,
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
    for temperature in dict.fromkeys(job.temperature for job in tallies):
        rows = np.array(
            [
                [
                    *(one.tokens, one.rounds, one.accepted, one.drafted),
                    *(first[job].tokens, first[job].rounds),
                ]
                for job, one in tallies.items()
                if job.temperature == temperature
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


def show(by_temperature: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print one table per temperature."""
    headers = ("category", "texts", "tokens", "tokens/round", "accepted/drafted")
    for temperature, by_category in by_temperature.items():
        rows: list[list[Any]] = []
        for name in [*sorted(name for name in by_category if name != ALL), ALL]:
            one = by_category[name]
            rows.append([name, *(one[key] for key in ("texts", "tokens", "tokens_per_round", "acceptance"))])
        print(f"T = {temperature}")
        print(table(headers, rows))
        print()


def run(options: Namespace) -> int:
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
    engine = ModelEngine(target.model, prefill=2**20)  # reads a prompt in one forward
    if options.head is not None:
        put_head(engine, target, options.head)
        if any((options.head / name).exists() for name in DRAFT_FILES):
            with tempfile.TemporaryDirectory() as place:  # graphs are written into the head's folder
                head = shutil.copytree(options.head, Path(place) / "head")
                drafters[LORA] = load_drafter(options.draft[0], options, target.loaded, head)
    jobs = write_all(engine, jobs, options.at_once)
    found = {
        name: measure(engine, drafter, [job.text for job in jobs], say) for name, drafter in drafters.items()
    }
    times = {name: 1000 * each.token for name, each in found.items()}
    times[TARGET] = 1000 * next(iter(found.values())).forwards[0]
    tallies = {name: tallies_of(jobs, each, options.k) for name, each in found.items()}
    first = next(iter(tallies.values()))
    drafts = {name: intervals(one, first, options.seed) for name, one in tallies.items()}
    for name, one in tallies.items():
        print(f"draft {name}")
        show(by_category(one))
    rows = [
        [name, temperature, *map(bootstrap.shown, ends.values()), times.get(name)]
        for name, by_temperature in drafts.items()
        for temperature, ends in by_temperature.items()
    ]
    print(table(("draft", "T", "tokens/round", "accepted/drafted", "of the first draft", "ms/token"), rows))
    print(f"\ntarget: {times[TARGET]:.1f} ms per token of one session alone")
    temperatures = by_category(first)
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
    return run_main(lambda arguments: run(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
