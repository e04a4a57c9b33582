"""Faults and attacks by a seed against a deployment that `flexspec-broker init` made, and what the history proves.

    python -m lab.chaos --answers 500 --faults 300 --real 50
    python -m lab.chaos --target FOLDER --draft FOLDER --tokens 5000 --faults 40

Real daemons over TLS with keys: a broker, two workers and one that comes and goes, three devices, each behind a link of
its own. Most texts are a tiny random target's; `--real` is how many of them are the default model's, `--target` has all
of them written by another. Each is compared with what transformers' own model writes alone, by code that shares nothing
with the system (`lab.benchmarks.exact.reference`). The same seed gives the same schedule. It ends with code 1 if a rule
is broken, and says where the history is.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab.benchmarks import _common
from lab.benchmarks.attacks.ways import WAYS
from lab.chaos.checker import Judgement, check
from lab.chaos.history import Ended, Healed, Record, Struck, read_history
from lab.chaos.pairs import real, tiny
from lab.chaos.run import Run
from lab.chaos.schedule import EDGES, KINDS, Sizes

_TINY = Sizes(answers=0, faults=0, least=24, most=120, most_prompt=300)
_REAL = Sizes(answers=0, faults=0, least=16, most=60, most_prompt=80)
_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_args(argv)
    import torch

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    broken = 0
    folder = args.history or Path(tempfile.mkdtemp(prefix="flexspec-chaos-"))
    for name, sizes in _runs(args).items():
        scratch = folder / name
        scratch.mkdir(parents=True)
        _say(f"{name}: {sizes.answers} answers, {sizes.faults} faults and attacks, seed {args.seed}")
        pair = (
            tiny(scratch)
            if name == "tiny"
            else real(args.target or "default", args.draft, args.prompts, _say)
        )
        began = time.monotonic()
        run = Run(pair, sizes, args.seed, _say)
        asyncio.run(run.happen(scratch))
        history = read_history(sorted(scratch.glob("*.jsonl")))
        judged = check(history)
        found[name] = _figures(history, judged, time.monotonic() - began)
        broken += len(judged.violations)
        for violation in judged.violations[:_SHOWN]:
            print(f"BROKEN: {violation.rule}: {violation.what}")
    rows = [(f"{name} {key}", value) for name, figures in found.items() for key, value in figures.items()]
    print(_common.table(("figure", "value"), rows))
    print(f"seed {args.seed}; the histories are in {folder}")
    _common.finish("chaos", found, quick=args.quick)
    return int(broken > 0)


def _parser() -> argparse.ArgumentParser:
    parser = _common.parser(__doc__ or "")
    parser.add_argument("--answers", type=int, help="texts that are asked for (default: 500; quick: 12)")
    parser.add_argument("--faults", type=int, help="faults and attacks (default: 300; quick: 10)")
    parser.add_argument("--real", type=int, default=0, help="texts, of these, of the default model")
    parser.add_argument(
        "--target", default="", help="what writes all of them: a checkpoint, a GGUF file, or 'default'"
    )
    parser.add_argument("--draft", default="default", help="folder of its draft, or 'default'")
    parser.add_argument("--tokens", type=int, help="compare about so many, instead of --answers")
    parser.add_argument("--edges", type=int, default=len(EDGES), help="devices, 1 to 3")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=[], help="of faults (default: all)")
    parser.add_argument("--attacks", nargs="*", choices=list(WAYS), default=list(WAYS), help="ways to attack")
    parser.add_argument("--history", type=Path, help="new folder for it (default: one of its own)")
    return parser


def _say(text: str) -> None:
    _common.say(f"{time.strftime('%H:%M:%S')} {text}")


def _runs(args: argparse.Namespace) -> dict[str, Sizes]:
    """Runs in their order: texts of the tiny target, and those of a real one with their share of faults."""
    faults = args.faults if args.faults is not None else 10 if args.quick else 300
    answers = args.answers or (12 if args.quick else 500)
    if args.target:
        answers = round(2 * args.tokens / (_REAL.least + _REAL.most)) if args.tokens else answers
        return {"target": _sizes(args, _REAL, answers, faults)}
    real = min(args.real, answers)
    of_real = round(faults * real / answers)
    runs = {
        "tiny": _sizes(args, _TINY, answers - real, faults - of_real),
        "default": _sizes(args, _REAL, real, of_real),
    }
    return {name: sizes for name, sizes in runs.items() if sizes.answers}


def _sizes(args: argparse.Namespace, of: Sizes, answers: int, faults: int) -> Sizes:
    chosen: dict[str, Any] = {"ways": tuple(args.attacks), "kinds": tuple(args.kinds)}
    return replace(of, answers=answers, faults=faults, edges=EDGES[: args.edges], **chosen)


def _figures(history: Sequence[Record], judged: Judgement, took: float) -> dict[str, Any]:
    struck = Counter(record.kind for record in history if isinstance(record, Struck))
    skipped = {record.skipped for record in history if isinstance(record, Healed) and record.skipped}
    of_drafts = Counter[str]()
    for record in history:
        if isinstance(record, Ended):
            of_drafts.update({name: int(value) for name, value in record.figures.items()})
    broken = Counter(violation.rule.value for violation in judged.violations)
    silences = judged.silences or [0.0]
    return {
        **judged.figures,
        **of_drafts,
        **{f"fault {kind}": many for kind, many in sorted(struck.items())},
        **{f"skipped: {why}": 1 for why in skipped},
        **{f"silence beside a healthy worker, p{q}, s": _common.percentile(silences, q / 100) for q in (50, 99, 100)},
        **{
            f"back after {fault}, p{q}, s": _common.percentile(seconds, q / 100)
            for fault, seconds in sorted(judged.back.items())
            for q in (50, 100)
        },
        **{f"broken: {rule}": many for rule, many in broken.items()},
        "broken rules": sum(broken.values()),
        "seconds": round(took, 1),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
