"""What a verification step costs, and what the engines cost that a user could pick instead.

`steps`: the packed forward by sessions and tokens, the step, and the noise in it; beside it transformers' `generate`.
`heads`: the step of four sessions, each on a head of its own, beside the same step on one head and on the base.
`peers`: our runner, llama.cpp, OpenVINO, onnxruntime-genai and transformers, whichever of them is installed (extra
`bench`), on the same weights, texts and core, one thread each. `crowd`: 16 sessions, ours with K = 4 beside
llama.cpp's server. All of it in turns.
Contexts are windows of the questions' text. Milliseconds are medians.
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
from lab.benchmarks.engine_parts.heads import measure as measure_heads
from lab.benchmarks.engine_parts.steps import MOST, TOKENS
from lab.benchmarks.engine_parts.steps import measure as measure_steps
from lab.benchmarks.peers.compare import CLOCKS, GROWTH, Setting, Texts, compare
from lab.benchmarks.peers.crowd import crowd, show
from lab.benchmarks.peers.figures import MANY, PREFILL
from lab.benchmarks.peers.specs import KINDS, LLAMA, chosen

SECTIONS = ("steps", "heads", "peers", "crowd")
QUICK_SECTIONS = ("steps",)
"""The others take longer than a minute, most of it for engines to load, or for heads to be taken up."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--context", type=int, default=128, help="tokens that every session holds, about")
    made.add_argument("--dtype", default="bfloat16", help="of the weights and the forward")
    made.add_argument(
        "--sections", nargs="+", choices=SECTIONS, help="what to measure; by default all, quickly only steps"
    )
    steps = made.add_argument_group("steps")
    steps.add_argument("--rounds", type=int, default=30, help="measurements of each case")
    steps.add_argument("--generate", type=int, default=16, help="new tokens of a call of `generate`")
    steps.add_argument("--reference", choices=("sdpa", "eager"), default="sdpa", help="its attention")
    steps.add_argument("--threads", type=int, default=1, help="of torch; the other sections have one")
    heads = made.add_argument_group("heads")
    heads.add_argument("--floor", type=int, default=6, metavar="LAYER", help="lowest layer that they touch")
    heads.add_argument("--pairs", type=int, default=60, help="measurements of each case")
    peers = made.add_argument_group("peers and crowd")
    peers.add_argument(
        "--peers", nargs="+", choices=KINDS, help="engines beside ours; by default all that are installed"
    )
    peers.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="of the peers; cpu where others use the machine",
    )
    peers.add_argument("--turns", type=int, default=10, help="measurements of each case")
    peers.add_argument(
        "--llama-server", default="llama-server", help="llama.cpp's server: a path, or a name on PATH"
    )
    peers.add_argument("--draft", default="default", help="draft of the crowd, as flexspec-edge takes it")
    peers.add_argument("--crowd-turns", type=int, default=3, help="times that all sessions write")
    peers.add_argument("--crowd-tokens", type=int, default=64, help="tokens of each text")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    least = {
        "context": MOST,
        "rounds": 1,
        "floor": 0,
        "pairs": 1,
        "generate": 2,
        "turns": 1,
        "crowd_turns": 1,
        "crowd_tokens": 8,
    }
    for name, bound in least.items():
        if getattr(options, name) < bound:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} {getattr(options, name)} is less than {bound}")


def shorten(options: Namespace) -> None:
    """Make it a rough answer in less than a minute, if only the steps are measured."""
    options.rounds, options.generate = min(options.rounds, 3), min(options.generate, 4)
    options.pairs = min(options.pairs, 5)
    options.turns, options.crowd_turns, options.crowd_tokens = 2, 1, 8


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
    room = longest_possible - max(*TOKENS, options.generate)
    if longest > room:
        raise UsageError(
            f"--context {options.context} does not fit the model", hint=f"at most {room - MOST // 2}"
        )
    rng = random.Random(options.seed)
    long = list(ids) * (1 + longest // len(ids))
    starts = [rng.randrange(len(long) - longest + 1) for _ in range(MOST)]
    return [long[start : start + options.context + i - MOST // 2] for i, start in enumerate(starts)]


def setting(loaded: LoadedText, draft: str) -> Setting:
    """Where engines find the target, and where what is converted from it is kept.

    Raises:
        ModelError: it is on a hub, not in a folder.
    """
    if not isinstance(loaded.source, Path):
        raise ModelError(f"{loaded.source} is no folder", hint="engines are compared on a checkpoint folder")
    files = sorted(path.stat() for path in loaded.source.glob("*.safetensors"))
    facts = [str(loaded.source.resolve()), *(f"{file.st_size} {file.st_mtime_ns}" for file in files)]
    name = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    return Setting(loaded.source, cache_folder("bench") / name, draft)


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        shorten(options)
    sections = options.sections or (QUICK_SECTIONS if options.quick else SECTIONS)
    WorkerSettings(target=options.target, worker="bench", dtype=options.dtype, threads=options.threads)
    loaded = load_text(options.target)
    ids = stream(loaded, options)
    results: dict[str, Any] = {"target": loaded.name, "dtype": options.dtype, "context": options.context}
    if "steps" in sections:
        results["steps"] = measure_steps(options, contexts(ids, loaded.max_context, options))
    if "heads" in sections:
        results["heads"] = measure_heads(options, contexts(ids, loaded.max_context, options))
    if "peers" in sections or "crowd" in sections:
        results |= asyncio.run(_beside(sections, loaded, ids, options))
    finish("engine", results, quick=options.quick)
    return 0


async def _beside(
    sections: Sequence[str], loaded: LoadedText, ids: Sequence[int], options: Namespace
) -> dict[str, Any]:
    """The sections with other engines, which all are processes of their own.

    Raises:
        UsageError: the model's context is too short.
    """
    room = loaded.max_context - max(GROWTH, options.crowd_tokens)
    if max(options.context, PREFILL) > room:
        raise UsageError(f"--context {options.context} and a prompt of {PREFILL} tokens do not fit the model")
    place, texts = setting(loaded, options.draft), Texts.cut(ids, options.context, options.seed)
    results: dict[str, Any] = {}
    many_ms: float | None = None
    if "peers" in sections:
        print("\n== peers", flush=True)
        specs = chosen(options.dtype, options.peers)
        results["peers"] = await compare(specs, place, texts, options)
        llama = results["peers"]["engines"].get(LLAMA, {"ms": {}})["ms"].get(MANY)
        many_ms = None if llama is None else llama["median"]
    if "crowd" in sections:
        print("\n== crowd", flush=True)
        prompts = [text[: options.context] for text in texts.sessions]
        results["crowd"] = await crowd(place, options.dtype, prompts, options)
        results["crowd_ratio"] = show(results["crowd"], many_ms)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
