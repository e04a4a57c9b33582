"""Acceptance: tokens per round, and the time of a drafted token.

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_worker.engine import target as cloud_target
from cloud_worker.engine.engine import ModelEngine
from cloud_worker.pair.forecast import runs
from cloud_worker.pair.measure import PairText, measure, write
from cloud_worker.settings import WorkerSettings
from edge_node.settings import EdgeSettings
from flexspec_mq.drafting import load as draft_model
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.errors import FingerprintError, UsageError
from flexspec_mq.heads.manifest import read_head
from flexspec_mq.models.head_files import DRAFT_FILES, read_weights
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.shape import Shape
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.sampling.params import verified
from lab.bench import bootstrap
from lab.bench.bootstrap import Ends, Floats
from lab.bench.questions import OWN, Question, read_questions, spread
from lab.benchmarks._common import finish, parser, program, say, table
from schemas.messages import MAX_DRAFT_TOKENS, NOISE_VERSION, Identity, Sampling

QUICK_QUESTIONS, QUICK_TOKENS = 8, 24
TARGET, LORA = "target", "with the head's LoRA"


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
    for temperature in options.temperatures:
        verified(Sampling(temperature))


def make_texts(questions: Sequence[Question], loaded: LoadedText, options: Namespace) -> list[PairText]:
    """A text per question and temperature. Seeds come from ``--seed`` and the question's place.

    Raises:
        UsageError: a question and its answer do not fit the context, or no text can be sampled like this.
    """
    texts = []
    for place, question in enumerate(questions):
        prompt = encode_turns(
            loaded.tokenizer, [Turn("user", question.text)], max_context=loaded.max_context - options.tokens
        )
        seed = random.Random(f"{options.seed} {place}").getrandbits(64)
        for temperature in options.temperatures:
            sampling = Sampling(temperature, seed=seed)
            identity = Identity(
                NOISE_VERSION, loaded.fingerprint, sampling, loaded.eos, False, options.tokens
            )
            texts.append(PairText(prompt, identity))
    return texts


def write_all(engine: ModelEngine, texts: Sequence[PairText], at_once: int) -> list[PairText]:
    """Have the target write all texts, some at once."""
    written: list[PairText] = []
    for begin in range(0, len(texts), at_once):
        written += write(engine, texts[begin : begin + at_once], lambda _: None)
        say(f"{len(written)} of {len(texts)} texts")
    return written


def sums_of(right: Sequence[bool], k: int) -> tuple[int, int, int, int]:
    """Tokens, rounds, accepted and drafted tokens of a text, from the verdict on the draft's token at each place."""
    place = rounds = accepted = drafted = 0
    for run in runs(right, k):
        rounds += 1
        drafted += min(k, len(right) - place - 1)
        accepted += run
        place += run + 1
    return len(right), rounds, accepted, drafted


def load_drafter(name: str, options: Namespace, target: LoadedText, head: Path | None = None) -> Drafter:
    """A draft as an edge node runs it, or with the LoRA of a head as a worker does.

    Raises:
        FingerprintError: the target has another tokenizer.
    """
    settings = EdgeSettings(edge="bench", draft=name, lookup=False, threads=options.threads)
    draft = (
        draft_model.load(settings, say) if head is None else draft_model.load_for_version(settings, head, say)
    )
    if draft.drafter is None or draft.text.tokenizer_status.vocabulary != target.tokenizer_status.vocabulary:
        raise FingerprintError("draft and target have different tokenizers")
    return draft.drafter


def put_head(engine: ModelEngine, target: cloud_target.Target, folder: Path) -> None:
    """Have the engine write as the version of a head.

    Raises:
        HeadError: the head is damaged.
    """
    manifest = read_head(folder)
    shape = Shape.from_config(target.loaded.config)
    target.model.hold(folder.name, read_weights(folder, manifest.kind, shape, manifest.floor))
    engine.hold("base", folder.name)


def intervals(sums: Floats, first: Floats, seed: int) -> dict[str, Ends]:
    """Tokens per round, acceptance, and tokens per round as a share of the first draft's.

    Args:
        sums: rows of `sums_of`, one a text.
        first: sums of the first draft on the same texts.
        seed: seed of the bootstrap.
    """
    statistics = {
        "tokens_per_round": lambda s: s[..., 0] / s[..., 1],
        "acceptance": lambda s: s[..., 2] / np.maximum(1, s[..., 3]),
        "of_first": lambda s: s[..., 0] / s[..., 1] / (s[..., 4] / s[..., 5]),
    }
    rows = np.hstack([sums, first[:, :2]])
    return {name: bootstrap.of_sums(rows, statistic, seed=seed) for name, statistic in statistics.items()}


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    check(options)
    if options.quick:
        options.tokens = min(options.tokens, QUICK_TOKENS)
        options.questions = min(options.questions or QUICK_QUESTIONS, QUICK_QUESTIONS)
    questions = read_questions(options.prompts or OWN)
    questions = spread(questions, options.questions or len(questions))
    worker = WorkerSettings(
        target=options.target, worker="bench", dtype=options.dtype, threads=options.threads
    )
    target = cloud_target.load(worker, say)
    drafters = {name: load_drafter(name, options, target.loaded) for name in options.draft}
    texts = make_texts(questions, target.loaded, options)
    engine = ModelEngine(target.model, prefill=2**20)  # reads a prompt in one forward
    if options.head is not None:
        put_head(engine, target, options.head)
        if any((options.head / name).exists() for name in DRAFT_FILES):
            with tempfile.TemporaryDirectory() as place:  # graphs are written into the head's folder
                head = shutil.copytree(options.head, Path(place) / "head")
                drafters[LORA] = load_drafter(options.draft[0], options, target.loaded, head)
    texts = write_all(engine, texts, options.at_once)
    found = {name: measure(engine, drafter, texts, say) for name, drafter in drafters.items()}
    times = {name: 1000 * each.token for name, each in found.items()}
    times[TARGET] = 1000 * next(iter(found.values())).forwards[0]
    sums = {
        name: np.array([sums_of(right, options.k) for right in each.right], dtype=np.float64)
        for name, each in found.items()
    }
    first = next(iter(sums.values()))
    at = np.array([text.identity.sampling.temperature for text in texts])
    drafts = {
        name: {f"{t:g}": intervals(one[at == t], first[at == t], options.seed) for t in options.temperatures}
        for name, one in sums.items()
    }
    rows = [
        [name, temperature, *map(bootstrap.shown, ends.values()), times[name]]
        for name, by_temperature in drafts.items()
        for temperature, ends in by_temperature.items()
    ]
    print(table(("draft", "T", "tokens/round", "accepted/drafted", "of the first draft", "ms/token"), rows))
    print(f"\ntarget: {times[TARGET]:.1f} ms per token of one session alone")
    results: dict[str, Any] = {
        "questions": len(questions),
        "k": options.k,
        "tokens": options.tokens,
        "exact": target.proof.exact,
        "ms_per_token": times,
        "drafts": drafts,
    }
    finish("acceptance", results, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
