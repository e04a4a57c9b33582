"""How long after an outage a user waits for the rest of an answer.

Mosquitto, ``flexspec-cloud`` on one core, an edge node as it comes on the other, and between them an emulated link
that carries nothing for so many seconds (root, Linux) while an answer is being written: seconds from the outage's end
to the end of the answer; the worker has written on meanwhile.

Below 0 the answer was over before the outage was. Then Mosquitto itself is killed while `--streams` answers are being
written, and started again after so many seconds, on loopback with three devices, in a deployment with TLS and keys:
seconds from its return to the next piece of each.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench.client import StreamedAnswer, ask, unbounded
from lab.bench.strategies import RATIONED, Node
from lab.bench.testbed import bench_testbed
from lab.benchmarks._common import finish, parser, percentile, say, table
from lab.testbed.link.profiles import LinkPlan, Outage, built_in
from lab.testbed.secured import SecuredDeployment, secured_deployment

BEGINS_S = 0.3
"""Seconds from where the link is set to, to where the outage begins."""
ASKED = "Explain in some sentences why the sky is blue at noon and red in the evening."
NODE = "default"
DEVICES = ("d1", "d2", "d3")
_APART = 1000.0
"""Seconds of the channel from one case to the next."""
_LOOK = 0.02

Case = tuple[float, float]
"""Length of an outage, and the second of the channel to which the link is set for it."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--profile", default="4g", help="of the link; its own outages are left out")
    made.add_argument(
        "--lengths", type=float, nargs="*", default=[4.0, 14.0, 30.0, 60.0], help="of the link's, in s"
    )
    made.add_argument(
        "--killed", type=float, nargs="*", default=[4.0, 20.0, 60.0], help="of the broker's, in s"
    )
    made.add_argument("--tries", type=int, default=6, help="of each length")
    made.add_argument("--tokens", type=int, default=128, help="of an answer")
    made.add_argument("--streams", type=int, default=15, help="answers at once as the broker is killed")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--draft", default="default", help="of both sides")
    made.add_argument("--edge-flags", default="", help="of flexspec-edge")
    return made


def cases_of(lengths: Sequence[float]) -> list[Case]:
    """Outages of these lengths.

    Raises:
        UsageError: a length that is none, or one that is there twice.
    """
    if not all(0.0 < length < _APART / 2 for length in lengths) or len(set(lengths)) < len(lengths):
        raise UsageError(f"give lengths above 0 and below {_APART / 2:.0f} s, each once")
    return [(length, _APART * number) for number, length in enumerate(lengths, 1)]


def plan_of(profile: str, cases: Sequence[Case], seed: int) -> LinkPlan:
    """The link with these outages and no others.

    Raises:
        UsageError: no such profile.
    """
    calm = msgspec.structs.replace(built_in().get(profile), outages=None)
    lasts = _APART * (len(cases) + 2)
    begins = [(start + BEGINS_S, length) for length, start in cases]
    outages = tuple(Outage(begin, begin + length) for begin, length in begins)
    return LinkPlan(profile, calm, seed, lasts_s=(lasts,) * len(calm.states), outages=outages)


def body(tokens: int) -> dict[str, Any]:
    """A request."""
    return {"messages": [{"role": "user", "content": ASKED}], "max_tokens": tokens, "temperature": 0}


def note(found: dict[str, list[float]], name: str, took: Sequence[float]) -> None:
    """Add what a try came to, and tell it."""
    found.setdefault(name, []).extend(took)
    say(f"{name}: {min(took):.2f} to {max(took):.2f} s")


async def measure(args: Namespace, lengths: Sequence[float], tries: int) -> dict[str, list[float]]:
    """Seconds by case, of the link's outages."""
    cases = cases_of(lengths)
    found: dict[str, list[float]] = {}
    workers = {RATIONED: ("--target", args.target, "--draft", args.draft)}
    nodes = {NODE: Node(("--draft", args.draft, *shlex.split(args.edge_flags)))}
    async with bench_testbed(plan_of(args.profile, cases, args.seed), nodes, workers=workers) as here:
        await here.ask(NODE, body(8), 0.0)
        for _ in range(tries):
            for length, start in cases:
                answer, _ = await here.ask(NODE, body(args.tokens), start)
                note(found, f"{length:g} s", [float(answer["seconds"]) - BEGINS_S - length])
    return found


async def measure_killed(
    args: Namespace, lengths: Sequence[float], tries: int, streams: int
) -> dict[str, list[float]]:
    """Seconds by case, of outages of the broker."""
    found: dict[str, list[float]] = {}
    worker = ("--target", args.target, "--draft", args.draft)
    edge = ("--draft", args.draft, *shlex.split(args.edge_flags))
    async with secured_deployment(DEVICES, worker_flags=worker, edge_flags=edge) as here, unbounded() as http:
        for one in here.edges:
            await ask(http, one.url, body(8))
        for _ in range(tries):
            for length in lengths:
                within = await going_on(here, http, length, streams, args.tokens)
                note(found, f"broker {length:g} s", within)
    return found


async def going_on(
    here: SecuredDeployment, http: httpx2.AsyncClient, seconds: float, streams: int, tokens: int
) -> list[float]:
    """Have answers written at all devices, and kill the broker when each has begun.

    Args:
        here: deployment with its broker.
        http: without bounds on its connections.
        seconds: seconds that the broker is away.
        streams: answers at once.
        tokens: tokens of each.

    Returns:
        Seconds from the broker's return to the next piece of each answer; below 0 for one that was over before.

    Raises:
        FlexSpecError: an answer failed.
    """
    answers = [StreamedAnswer() for _ in range(streams)]
    async with asyncio.TaskGroup() as group:
        for number, answer in enumerate(answers):
            url = here.edges[number % len(here.edges)].url
            group.create_task(ask(http, url, _story(number, tokens), answer=answer))
        while not all(answer.times or answer.ended for answer in answers):  # noqa: ASYNC110  other tasks write them
            await asyncio.sleep(_LOOK)
        back = await here.broker_away(seconds)
    for answer in answers:
        if answer.error:
            raise FlexSpecError(f"an answer failed as the broker was away: {answer.error}")
    return [min((at for at in answer.times if at > back), default=answer.ended) - back for answer in answers]


def _story(number: int, tokens: int) -> dict[str, Any]:
    asked = f"Write a long story about a lighthouse keeper who sees {number + 2} ships."
    return {**body(tokens), "messages": [{"role": "user", "content": asked}], "ignore_eos": True}


def _measure(argv: Sequence[str]) -> int:
    args = build_parser().parse_args(argv)
    lengths, killed, tries, streams = args.lengths, args.killed, args.tries, args.streams
    if args.quick:
        lengths, killed, tries, streams = [2.0], [2.0], 2, 3
    found = asyncio.run(measure(args, lengths, tries)) if lengths else {}
    if killed:
        found |= asyncio.run(measure_killed(args, killed, tries, streams))
    rows = [
        (name, len(took), min(took), percentile(took, 0.5), sum(took) / len(took), max(took))
        for name, took in found.items()
    ]
    print(table(("outage", "answers", "least s", "median", "mean", "most"), rows))
    finish("outages", found, quick=args.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(_measure, argv)


if __name__ == "__main__":
    sys.exit(main())
