"""Many streams at once, with drafts as a node makes them by default and without: tokens per second, end to end.

Everything runs as users run it: Mosquitto, ``flexspec-cloud`` and ``flexspec-edge serve`` as processes with the
default model or another pair, asked over HTTP; beside them, with ``--server``, another program that answers.
"""

import argparse
import asyncio
import random
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flexspec_mq.demo.children import python
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench.client import ask_all, greedy, unbounded
from lab.bench.questions import OWN, read_questions, spread
from lab.bench.strategies import SERVER
from lab.bench.testbed import start_server
from lab.benchmarks import _common
from lab.testbed.deployment import QUICK_STATUS, LocalDeployment, with_broker
from schemas.messages import MAX_AHEAD

STREAMS = 1, 4, 8, 16
NODES = 1, 4
DEFAULT, STREAMING = "default", "streaming"
PLANS: Mapping[str, tuple[str, ...]] = {
    DEFAULT: (),
    STREAMING: (
        *("--policy", "fixed", "--draft-length", "0", "--draft", "none", "--no-lookup"),
        *("--ahead", str(MAX_AHEAD), "--worker-draft", "0"),
    ),
}
"""Flags of the edge nodes: none at all, and no drafts by anybody with a worker that runs ahead."""

_VERSION = "base"

Cell = tuple[int, int]
"""Streams in all, and nodes that they are spread over."""


async def streams(
    questions: Sequence[str], options: argparse.Namespace, say: Callable[[str], None]
) -> dict[Cell, dict[str, list[float]]]:
    """Streams of one node and of four, at one worker as it comes, with drafts and without in turns.

    Args:
        questions: questions that are asked.
        options: as of `build_parser`.
        say: told what happens.

    Returns:
        Tokens per second of all streams, one for each turn, by cell and plan.

    Raises:
        FlexSpecError: a text failed.
    """
    seed, tokens = options.seed, options.tokens
    rng = random.Random(seed)
    cells = [(count, nodes) for nodes in NODES for count in options.streams if count >= nodes]
    async with with_broker() as here, unbounded() as http:
        urls = await _started(here, options, say)
        found: dict[Cell, dict[str, list[float]]] = {cell: {name: [] for name in urls} for cell in cells}

        async def written(name: str, nodes: int, asked: Sequence[str], limit: int) -> float:
            began = time.perf_counter()
            bodies = [greedy(question, limit) for question in asked]
            answers = await ask_all(http, urls[name][:nodes], bodies)
            for one in answers:
                if one.error:
                    raise FlexSpecError(f"a text of {name} failed: {one.error}")
            return len(asked) * limit / (time.perf_counter() - began)

        for name in urls:  # a node's first texts are slower
            await written(name, max(NODES), _asked(questions, 2 * max(NODES), "warm", rng), tokens)
        for turn in range(options.turns):
            for count, nodes in rng.sample(cells, len(cells)):
                for name in rng.sample(list(urls), len(urls)):
                    asked = _asked(
                        questions, count, str(turn), random.Random(f"{seed} {turn} {count} {nodes}")
                    )
                    rate = await written(name, nodes, asked, tokens)
                    found[count, nodes][name].append(rate)
                    say(f"turn {turn + 1}, {count} streams of {nodes} nodes, {name}: {rate:.0f} tokens/s")
    return found


async def _started(
    here: LocalDeployment, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Start who answers; URLs by plan."""
    await here.worker("w1", *QUICK_STATUS, "--target", options.target, "--version", _VERSION)
    common = ("--draft", options.draft, "--tokenizer", options.draft, "--version", _VERSION)
    urls: dict[str, list[str]] = {name: [] for name in PLANS}
    for number in range(max(NODES)):
        for name, flags in PLANS.items():
            urls[name].append((await here.edge(f"{name}-{number}", *common, *flags)).url)
    if options.server:
        client = await here.start("client", "device", python("lab.bench.client"))
        served = await start_server(here, shlex.split(options.server), client, say)
        urls[SERVER] = [served.url] * max(NODES)
    return urls


def ratio(rates: Mapping[str, Sequence[float]], other: str = STREAMING) -> float:
    """Tokens per second by default over another's, in the median of the turns."""
    return statistics.median(ours / theirs for ours, theirs in zip(rates[DEFAULT], rates[other], strict=True))


def _asked(questions: Sequence[str], count: int, turn: str, rng: random.Random) -> list[str]:
    """Questions that no node has been asked before: what it remembers would be another plan's advantage."""
    return [f"({turn}.{number}) {rng.choice(questions)}" for number in range(count)]


def build_parser() -> argparse.ArgumentParser:
    """The benchmark's flags."""
    made = _common.parser(__doc__ or "")
    made.add_argument("--turns", type=int, default=4, help="of each number of streams")
    made.add_argument("--tokens", type=int, default=64, help="of a text")
    made.add_argument("--streams", type=int, nargs="+", default=STREAMS, help="numbers of streams")
    made.add_argument("--target", default="default", help="of the worker, as of flexspec-cloud")
    made.add_argument("--draft", default="default", help="folder of the nodes' draft, or 'default'")
    made.add_argument("--server", default="", help="command of another program, as of `flexspec bench`")
    return made


@_common.program()
def main(argv: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    args = build_parser().parse_args(argv)
    questions = [question.text for question in spread(read_questions(args.prompts or OWN), 96)]
    if len(questions) < 4:
        raise UsageError("fewer than 4 questions", hint="crowds ask different things")
    if args.quick:
        args.tokens, args.turns = 16, 1
    found = asyncio.run(streams(questions, args, _common.say))
    rows = []
    results: dict[str, Any] = {}
    others = [STREAMING, SERVER] if args.server else [STREAMING]
    for (count, nodes), rates in found.items():
        ratios = {name: ratio(rates, name) for name in others}
        rows.append([count, nodes, *map(statistics.median, rates.values()), *ratios.values()])
        results[f"{count} of {nodes}"] = {**rates, "ratio": ratios}
    print(
        f"\ntokens/s of all streams end to end, {args.tokens} tokens each, one worker; ratios are medians of turns"
    )
    print(_common.table(["streams", "nodes", *PLANS, *others[1:], *(f"of {name}" for name in others)], rows))
    _common.finish("serving", results, quick=args.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
