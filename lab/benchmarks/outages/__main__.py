"""How long after an outage a user waits: for the rest of an answer, and for the first token of the next one.

Mosquitto, ``flexspec-cloud`` on one core, an edge node as it comes on the other, and between them an emulated link
that carries nothing for so many seconds (root, Linux). Each try meets an outage twice:

- within: it begins while an answer is being written. Seconds from its end to the end of the answer; the worker has
  written on meanwhile.
- after: it passes while nobody asks, and somebody asks a second after its end. Seconds to the first token. Workers
  tell their state every 10 s, so some of these outages lose messages of the broker's and others do not.

Below 0 the answer was over before the outage was.

Then Mosquitto itself is killed and started again after so many seconds, on loopback with three devices. The
deployment is one as ``flexspec-broker init`` makes it for others: TLS, keys, persistence.

- broker within: while `--streams` answers are being written. Seconds from its return to the next piece of each.
- broker after: while nobody asks, and somebody asks a second after its return. Seconds to the first token.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from flexspec_mq.daemon.main import run_main
from lab.bench.testbed.client import ask, unbounded
from lab.bench.testbed.node import RATIONED, Node
from lab.bench.testbed.testbed import Place, place
from lab.benchmarks._common import finish, parser, percentile, table
from lab.benchmarks.outages.cases import AFTER, BEGINS_S, KILLED, WITHIN, Case, cases_of, plan_of
from lab.benchmarks.outages.deployment import deployment
from lab.benchmarks.outages.killed import first_token, going_on

ASKED = "Explain in some sentences why the sky is blue at noon and red in the evening."
NODE = "default"
LATER_S = 1.0
"""Seconds from the end of an outage to the next question."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--profile", default="4g", help="of the link; its own outages are left out")
    made.add_argument(
        "--lengths",
        type=float,
        nargs="*",
        default=[4.0, 14.0, 30.0, 60.0],
        metavar="S",
        help="of the link's outages, in seconds",
    )
    made.add_argument(
        "--killed",
        type=float,
        nargs="*",
        default=[4.0, 20.0, 60.0],
        metavar="S",
        help="for which the broker is away, in seconds",
    )
    made.add_argument("--tries", type=int, default=6, help="of each length")
    made.add_argument("--tokens", type=int, default=128, help="of an answer")
    made.add_argument("--streams", type=int, default=15, help="answers at once as the broker is killed")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--draft", default="default", help="of both sides")
    made.add_argument("--edge-flags", default="", help="of flexspec-edge")
    return made


async def seconds_of(here: Place, case: Case, tokens: int) -> float:
    """What a user waits for in a case."""
    if case.kind == WITHIN:
        found, _ = await here.ask(NODE, body(tokens), case.start)
        return float(found["seconds"]) - BEGINS_S[WITHIN] - case.length
    began = time.monotonic()  # the link is set within a hundredth of a second
    await here.ask(NODE, body(2), case.start)
    await asyncio.sleep(began + BEGINS_S[AFTER] + case.length + LATER_S - time.monotonic())
    found, _ = await here.ask(NODE, body(16))
    return float(found["first"])


def body(tokens: int) -> dict[str, Any]:
    """A request."""
    return {"messages": [{"role": "user", "content": ASKED}], "max_tokens": tokens, "temperature": 0}


def tell(number: int, tries: int, case: str, took: Sequence[float]) -> None:
    """Say how far things are."""
    seconds = f"{min(took):.2f} to {max(took):.2f}" if len(took) > 1 else f"{took[0]:.2f}"
    print(f"try {number} of {tries}, {case}: {seconds} s", file=sys.stderr, flush=True)


async def measure(args: Namespace, lengths: Sequence[float], tries: int) -> dict[str, list[float]]:
    """Seconds by case, of the link's outages."""
    cases = cases_of(lengths)
    found: dict[str, list[float]] = {case.name: [] for case in cases}
    workers = {RATIONED: ("--target", args.target, "--draft", args.draft)}
    nodes = {NODE: Node(("--draft", args.draft, *shlex.split(args.edge_flags)))}
    async with place(plan_of(args.profile, cases, args.seed), nodes, workers=workers) as here:
        await here.ask(NODE, body(8), 0.0)
        for number in range(1, tries + 1):
            for case in cases:
                took = await seconds_of(here, case, args.tokens)
                found[case.name].append(took)
                tell(number, tries, case.name, [took])
    return found


async def measure_killed(
    args: Namespace, lengths: Sequence[float], tries: int, streams: int
) -> dict[str, list[float]]:
    """Seconds by case, of outages of the broker."""
    found: dict[str, list[float]] = {
        f"{KILLED}{kind} {length:g} s": [] for length in lengths for kind in (WITHIN, AFTER)
    }
    worker = ("--target", args.target, "--draft", args.draft)
    edge = ("--draft", args.draft, *shlex.split(args.edge_flags))
    async with deployment(worker, edge) as here, unbounded() as http:
        for url in here.urls:
            await ask(http, url, body(8))
        for number in range(1, tries + 1):
            for length in lengths:
                within = await going_on(here, http, length, streams, args.tokens)
                after = await first_token(here, http, length, LATER_S)
                for kind, took in ((WITHIN, within), (AFTER, [after])):
                    name = f"{KILLED}{kind} {length:g} s"
                    found[name] += took
                    tell(number, tries, name, took)
    return found


def show(found: dict[str, list[float]]) -> None:
    """Print a table."""
    rows = [
        (name, len(took), min(took), percentile(took, 0.5), sum(took) / len(took), max(took))
        for name, took in found.items()
    ]
    print(table(("outage", "answers", "least s", "median", "mean", "most"), rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""

    def work(arguments: Sequence[str]) -> None:
        args = build_parser().parse_args(arguments)
        lengths, killed, tries, streams = args.lengths, args.killed, args.tries, args.streams
        if args.quick:
            lengths, killed, tries, streams = [2.0], [2.0], 2, 3
        found = asyncio.run(measure(args, lengths, tries)) if lengths else {}
        if killed:
            found |= asyncio.run(measure_killed(args, killed, tries, streams))
        show(found)
        finish("outages", found, quick=args.quick)

    return run_main(work, argv)


if __name__ == "__main__":
    sys.exit(main())
