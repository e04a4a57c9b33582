"""What the system does with many sessions, workers and edges, and which part is full first.

- sessions: tokens per second of 1, 4 and 16 sessions on one worker with a real model, one token per session and step
- workers: rounds per second of two null-model workers over one, and how `$share` deals sessions out
- edges: many simulated edges on one broker and two null-model workers, the load raised until something is full

A null model is a hash of the prefix that holds the engine's thread as a device would, so that texts can be checked
and this machine's cores are not what is measured where they need not be. Everything else is real: Mosquitto, worker
daemons and edge nodes in processes of their own. All texts are checked.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from lab.benchmarks._common import finish, parser
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS

SECTIONS = ("sessions", "workers", "edges")
RATES = (100.0, 200.0, 300.0, 400.0, 600.0, 800.0, 1200.0, 1600.0, 2400.0)


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure"
    )
    made.add_argument("--rounds", type=int, default=5, help="turns of each case of sessions and workers")
    made.add_argument("--qos", type=int, choices=(0, 1, 2), default=1, help="of drafts and verdicts")
    one = made.add_argument_group("sessions")
    one.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    one.add_argument("--dtype", default="bfloat16", help="of the target")
    one.add_argument("--threads", type=int, default=1, help="of torch in the worker")
    one.add_argument("--tokens", type=int, default=96, help="of each session in the steady part")
    one.add_argument("--ahead", type=int, default=64, help="run-ahead where the target streams")
    two = made.add_argument_group("workers and edges")
    two.add_argument("--draft-length", type=int, default=4, help="K")
    two.add_argument(
        "--right", type=float, default=0.8, help="share of prefixes in which the null draft is right"
    )
    two.add_argument("--ramp", type=float, default=2.0, help="seconds of load before anything counts")
    three = made.add_argument_group("workers")
    three.add_argument("--writers", type=int, default=32, help="sessions at a time")
    three.add_argument("--step-ms", type=float, default=20.0, help="of a step of the modelled device")
    three.add_argument("--token-ms", type=float, default=0.3, help="that each of its tokens adds")
    three.add_argument("--batch", type=int, default=4, help="sessions in one of its steps")
    three.add_argument("--worker-seconds", type=float, default=8.0, help="of each turn")
    four = made.add_argument_group("edges")
    four.add_argument("--edges", type=int, default=200, help="edge nodes, each with its own connection")
    four.add_argument("--generators", type=int, default=4, help="processes that they are dealt out to")
    four.add_argument(
        "--rates", type=float, nargs="+", default=list(RATES), help="rounds per second to offer, rising"
    )
    four.add_argument("--level-seconds", type=float, default=10.0, help="of each of them")
    four.add_argument("--seconds", type=float, default=60.0, help="that the highest sustained one is held")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    bounds = {
        "rounds": (1, 1000),
        "threads": (1, 1024),
        "tokens": (8, 1024),
        "ahead": (1, MAX_AHEAD),
        "draft_length": (1, MAX_DRAFT_TOKENS),
        "right": (0.0, 1.0),
        "ramp": (0.0, 600.0),
        "writers": (8, 512),
        "step_ms": (1.0, 10_000.0),
        "token_ms": (0.0, 1000.0),
        "batch": (1, 512),
        "worker_seconds": (0.5, 3600.0),
        "edges": (1, 10_000),
        "generators": (1, 64),
        "level_seconds": (0.5, 3600.0),
        "seconds": (0.5, 3600.0),
    }
    for name, (least, most) in bounds.items():
        _within(name, getattr(options, name), least, most)
    for rate in options.rates:
        _within("rates", rate, 1.0, 100_000.0)
    if options.rates != sorted(set(options.rates)):
        raise UsageError("--rates do not rise", hint="for example --rates 100 200 400")
    if options.generators > options.edges:
        raise UsageError(f"--generators {options.generators} is more than --edges {options.edges}")
    if len(set(options.sections)) < len(options.sections):
        raise UsageError("--sections names one twice")


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        flag = name.replace("_", "-")
        raise UsageError(f"--{flag} {value:g} is not between {least:g} and {most:g}")


def shorten(options: Namespace) -> None:
    """Make it a rough answer in less than a minute."""
    options.rounds = 1
    options.tokens = min(options.tokens, 12)
    options.ramp = min(options.ramp, 0.5)
    options.writers = min(options.writers, 16)
    options.worker_seconds = min(options.worker_seconds, 1.0)
    options.edges = min(options.edges, 40)
    options.generators = min(options.generators, 2)
    options.rates = [rate for rate in options.rates if rate in (200.0, 1200.0)] or options.rates[:1]
    options.level_seconds = min(options.level_seconds, 1.5)
    options.seconds = min(options.seconds, 2.0)


async def _section(name: str, options: Namespace, folder: Path) -> dict[str, Any]:
    if name == "sessions":
        from lab.benchmarks.scale_parts import sessions

        found = await sessions.measure(options, folder)
        sessions.show(found)
    elif name == "workers":
        from lab.benchmarks.scale_parts import workers

        found = await workers.measure(options, folder)
        workers.show(found)
    else:
        from lab.benchmarks.scale_parts import edges

        found = await edges.measure(options, folder)
        edges.show(found)
    return found


def measure(options: Namespace) -> int:
    """Measure and print."""
    check(options)
    if options.quick:
        shorten(options)
    results: dict[str, Any] = {}
    for name in options.sections:
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="flexspec-scale-") as folder:
            results[name] = asyncio.run(_section(name, options, Path(folder)))
        print(flush=True)
    finish("scale", results, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
