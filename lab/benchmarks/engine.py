"""Our engine beside those that a user could pick instead: forwards by sessions and tokens, and reading a prompt.

Our runner, transformers, and llama.cpp for each ``--gguf`` (extra `engines`; `lab.benchmarks.peers.gguf_file` writes
such files) have the same model, texts and core, and one thread each. They take turns. Contexts are windows of the
questions' text. Milliseconds are medians.
"""

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.load import load_text
from lab.bench.questions import OWN, read_questions
from lab.benchmarks._common import finish, parser, program
from lab.benchmarks.peers.compare import GROWTH, PREFILL, PeerTexts, chosen, compare


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--target", default="default", help="folder or GGUF file of the target, or 'default'")
    made.add_argument("--gguf", type=Path, nargs="+", default=[], metavar="FILE", help="of the same target")
    made.add_argument("--context", type=int, default=128, help="tokens that every session holds")
    made.add_argument("--dtype", default="bfloat16", help="of the weights and the forward")
    made.add_argument("--turns", type=int, default=10, help="measurements of each case")
    return made


@program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    for name in ("context", "turns"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)} is less than 1")
    if absent := [path for path in options.gguf if not path.is_file()]:
        raise UsageError(
            f"there is no file {absent[0]}", hint="python -m lab.benchmarks.peers.gguf_file writes one"
        )
    loaded = load_text(options.target)
    target = Path(options.target) if Path(options.target).is_file() else loaded.source
    if not isinstance(target, Path):
        raise ModelError(
            f"{target} is no folder", hint="engines are compared on a checkpoint folder or a file"
        )
    if max(options.context, PREFILL) > loaded.max_context - GROWTH:
        raise UsageError(f"--context {options.context} and a prompt of {PREFILL} tokens do not fit the model")
    text = "\n\n".join(question.text for question in read_questions(options.prompts or OWN))
    texts = PeerTexts.cut(loaded.tokenizer.encode(text), options.context, options.seed)
    engines = chosen(options.dtype, target, options.gguf)
    if options.quick:
        engines, options.turns = engines[:1], 2  # the others load for longer than a minute
    results: dict[str, Any] = {"target": loaded.name, "dtype": options.dtype, "context": options.context}
    results["peers"] = asyncio.run(compare(engines, texts, options))
    finish("engine", results, quick=options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
