"""Cost of a verification step, and of the engines that a user could pick instead.

`steps`: the packed forward by sessions and tokens, and the step. `peers`: our runner, llama.cpp and transformers,
whichever of them is installed (extra `engines`), on the same weights, texts and core, one thread each. All of it in
turns. Contexts are windows of the questions' text. Milliseconds are medians.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloud_worker.settings import WorkerSettings
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.models.load import LoadedText, load_text
from lab.bench.questions import OWN, read_questions
from lab.benchmarks._common import finish, parser
from lab.benchmarks.engine_steps import MOST, TOKENS, measure_steps
from lab.benchmarks.peers.compare import (
    CLOCKS,
    GROWTH,
    LLAMA,
    PREFILL,
    TRANSFORMERS,
    PeerTexts,
    chosen,
    compare,
)

SECTIONS = ("steps", "peers")
QUICK_SECTIONS = ("steps",)
"""The others take longer than a minute, most of it for engines to load."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--context", type=int, default=128, help="tokens that every session holds, about")
    made.add_argument("--dtype", default="bfloat16", help="of the weights and the forward")
    made.add_argument(
        "--sections", nargs="+", choices=SECTIONS, help="what to measure; by default all, quickly only steps"
    )
    made.add_argument("--rounds", type=int, default=30, help="measurements of each step")
    made.add_argument("--threads", type=int, default=1, help="of torch in steps; peers have one")
    made.add_argument("--peers", nargs="+", choices=(LLAMA, TRANSFORMERS), help="beside ours; by default all")
    made.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="of the peers; cpu where others use the machine",
    )
    made.add_argument("--turns", type=int, default=10, help="measurements of each case of the peers")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    least = {"context": MOST, "rounds": 1, "turns": 1}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(options, name)} is less than {bound}")


def stream(loaded: LoadedText, options: Namespace) -> list[int]:
    """The questions as one text."""
    text = "\n\n".join(question.text for question in read_questions(options.prompts or OWN))
    ids: list[int] = loaded.tokenizer.encode(text)
    return ids


def contexts(ids: Sequence[int], longest_possible: int, options: Namespace) -> list[list[int]]:
    """Token ids for every session, of slightly different lengths around ``--context``.

    Raises:
        UsageError: the model's context is too short.
    """
    longest = options.context + MOST // 2
    room = longest_possible - max(TOKENS)
    if longest > room:
        raise UsageError(
            f"--context {options.context} does not fit the model", hint=f"at most {room - MOST // 2}"
        )
    rng = random.Random(options.seed)
    long = list(ids) * (1 + longest // len(ids))
    starts = [rng.randrange(len(long) - longest + 1) for _ in range(MOST)]
    return [long[start : start + options.context + i - MOST // 2] for i, start in enumerate(starts)]


def converted(folder: Path) -> Path:
    """Where what is converted from a checkpoint is kept."""
    files = sorted(path.stat() for path in folder.glob("*.safetensors"))
    facts = [str(folder.resolve()), *(f"{file.st_size} {file.st_mtime_ns}" for file in files)]
    return cache_folder("bench") / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        options.rounds, options.turns = min(options.rounds, 3), 2
    sections = options.sections or (QUICK_SECTIONS if options.quick else SECTIONS)
    WorkerSettings(target=options.target, worker="bench", dtype=options.dtype, threads=options.threads)
    loaded = load_text(options.target)
    ids = stream(loaded, options)
    results: dict[str, Any] = {"target": loaded.name, "dtype": options.dtype, "context": options.context}
    if "steps" in sections:
        results["steps"] = measure_steps(options, contexts(ids, loaded.max_context, options))
    if "peers" in sections:
        if not isinstance(loaded.source, Path):
            raise ModelError(
                f"{loaded.source} is no folder", hint="engines are compared on a checkpoint folder"
            )
        if max(options.context, PREFILL) > loaded.max_context - GROWTH:
            raise UsageError(
                f"--context {options.context} and a prompt of {PREFILL} tokens do not fit the model"
            )
        print("\n== peers", flush=True)
        engines, texts = (
            chosen(options.dtype, options.peers),
            PeerTexts.cut(ids, options.context, options.seed),
        )
        results["peers"] = asyncio.run(
            compare(engines, loaded.source, converted(loaded.source), texts, options)
        )
    finish("engine", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
