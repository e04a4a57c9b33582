"""Is the text exactly the target's own, whatever happens on the way?

Texts go through a real broker with workers that are killed, a link that loses, doubles, delays and cuts, and plans that
change at random. Every token is compared with those that transformers' own model writes one at a time, by code that
shares nothing with the system (`lab.benchmarks.exact.reference`). Contexts stay below 1,000 tokens, because beyond
1,024 positions transformers' eager attention changes its sums with the length; longer ones are compared with the
worker's own forward, one session and one token at a time in a process of its own.

It ends with code 1 if a token differs, or if a kind of stress never happened.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from lab.bench.questions import OWN, read_questions
from lab.benchmarks import _common

_WIDEST = 40
_EXPECTED = ("replayed", "no_key")


def main(argv: Sequence[str] | None = None) -> int:
    """Write and compare; returns the exit code."""
    args = _parser().parse_args(argv)
    import torch

    from flexspec_mq.models.load import load_target, resolve

    torch.set_num_threads(args.threads)
    folder = str(resolve(args.target, progress=_say))
    loaded = load_target(folder, progress=_say)
    prompts = _encode(loaded.tokenizer, [one.text for one in read_questions(args.prompts or OWN)])
    found = _stress(args, folder, prompts)
    rows, failures = _flat(found, "stress"), _failures(found, quick=args.quick)
    print(_common.table(("figure", "value"), [row for row in rows if len(str(row[1])) <= _WIDEST]))
    for name, sentence in rows:
        if len(str(sentence)) > _WIDEST:
            print(f"{name}: {sentence}")
    for failure in failures:
        print(f"FAILED: {failure}")
    _common.finish("exactness", {"stress": found, "failures": failures}, quick=args.quick)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = _common.parser(__doc__ or "")
    parser.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    parser.add_argument("--draft", default="default", help="folder of the draft, or 'default'")
    parser.add_argument(
        "--tokens", type=int, help="to compare at least, for each dtype (default: 20000; quick: 300)"
    )
    parser.add_argument("--dtypes", type=_names, help="(default: bfloat16,float32; quick: bfloat16)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--sessions", type=int, default=16, help="texts at a time")
    parser.add_argument("--prompt-tokens", type=int, default=300, help="of longer prompts the end is kept")
    parser.add_argument("--keys", action="store_true", help="give devices and workers keys")
    parser.add_argument(
        "--minutes", type=float, default=600.0, help="after which no new text is started, per dtype"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    from flexspec_mq.models.text import Turn, encode_turns

    return [encode_turns(tokenizer, [Turn("user", text)], max_context=2**20) for text in texts]


def _dtypes(args: argparse.Namespace) -> tuple[str, ...]:
    chosen: tuple[str, ...] = args.dtypes or (("bfloat16",) if args.quick else ("bfloat16", "float32"))
    return chosen


def _stress(args: argparse.Namespace, folder: str, prompts: list[tuple[int, ...]]) -> dict[str, Any]:
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting.load import load
    from flexspec_mq.models.load import load_text
    from lab.benchmarks.exact.stress import Stress, StressLoad
    from lab.benchmarks.exact.texts import Shape

    draft = load(EdgeSettings(edge="e", threads=args.threads, draft=args.draft), _say)
    newline = draft.loaded.tokenizer.encode("\n")[-1]
    stops = (newline, draft.loaded.tokenizer.encode(".")[-1])
    quick = args.quick
    shape = Shape(
        most_prompt=80 if quick else args.prompt_tokens,
        least=16 if quick else 40,
        most=48 if quick else 200,
        eos=load_text(folder).eos,
        stops=stops,
    )
    work = StressLoad(
        tokens=args.tokens or (300 if quick else 20_000),
        sessions=8 if quick else args.sessions,
        strike_every=100 if quick else 600,
        long=0 if quick else 2,
        seconds=60 * args.minutes,
        keys=args.keys,
        draft=args.draft,
    )
    found = {}
    for dtype in _dtypes(args):
        stress = Stress(work, shape, prompts, random.Random(args.seed), _say)
        found[dtype] = asyncio.run(stress.run(draft, folder, dtype, args.threads))
    return found


def _flat(found: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """Rows of the table: nested names joined, lists left to the JSON."""
    rows: list[tuple[str, Any]] = []
    for key, value in found.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{name} {key}")
        elif not isinstance(value, list):
            rows.append((f"{name} {key}", value))
    return rows


def _failures(found: dict[str, Any], *, quick: bool) -> list[str]:
    failures: list[str] = []
    for dtype, figures in found.items():
        wrong = ("wrong_tokens", "wrong_texts", "wrong_reasons", "failed", "repeated")
        failures += [f"{dtype}: {name} = {figures[name]}" for name in wrong if figures[name]]
        failures += [f"{dtype}: {example}" for example in figures["examples"]]
        # Copies are refused, and late words of sessions that are over; nothing else is to be expected.
        strange = {name: count for name, count in figures["refused"].items() if name not in _EXPECTED}
        failures += [f"{dtype}: refused: {strange}"] if strange else []
        needless = ["hangs", "connections_cut", "late_copies_lost"]
        needless += ["prompts_named", "namesakes", "sessions_unknown"] if quick else []
        never = [name for name in figures["never"] if name not in needless]
        failures += [f"{dtype}: the stress was none: {name} is 0" for name in never]
    return failures


if __name__ == "__main__":
    sys.exit(main())
