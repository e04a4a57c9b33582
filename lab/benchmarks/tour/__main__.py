"""One answer, and one conversation, over a link that changes under it: what each strategy makes of it.

Each strategy travels the same tour (`docs/links.md`) one after the other: the link is set to the tour's beginning,
the user asks, and goes away at the tour's end, whatever is under way then. So strategies are compared by what they
got on each leg, and by when they had as many tokens as the slowest got. What was told must be the same text, as far
as each came.

Real daemons, as in `lab.benchmarks.answers`: Mosquitto, ``flexspec-cloud`` on one core, ``flexspec-edge serve`` on the
other, network namespaces between them. A user looks at ``GET /v1/plan`` and at ``/metrics`` meanwhile, which is all
that is drawn. Needs root and Linux.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_node.settings import PlanOptions
from flexspec_mq.controller.policies import POLICIES
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench.strategies import STREAMING, Devices, nodes
from lab.bench.testbed.node import RATIONED
from lab.bench.testbed.testbed import Place, place
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.pricing.asked import chosen_questions, say
from lab.benchmarks.tour.figures import differing, summary
from lab.benchmarks.tour.journey import Journey, Order
from lab.testbed.link.profiles import LinkPlan, built_in
from lab.testbed.link.tour import PREFIX, legs_of, tour_plan
from lab.testbed.site.process import Process, python

ANSWER, CONVERSATION = "answer", "conversation"
LEGS = f"{PREFIX}wifi=10,tunnel=20,4g-weak=10,satellite=10,wifi=10"
QUICK_LEGS = f"{PREFIX}wifi=2,tunnel=2,4g-weak=2,satellite=2,wifi=2"
ASKED = "Write a detailed travel guide to the coast of Portugal, with a long section for each town."
"""With the seed of the texts, at temperature 1, the default target writes 1,600 tokens without repeating itself."""
WARM_UP = "Say hello."
DEFAULT = PlanOptions().policy


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--tour", default=LEGS, metavar="NAME", help="the link")
    made.add_argument(
        "--strategies",
        nargs="+",
        default=[DEFAULT, "placement", "fixed", STREAMING],
        metavar="NAME",
        help=f"the first one's plans are drawn in full; of: {', '.join([*POLICIES, STREAMING])}",
    )
    made.add_argument("--only", choices=(ANSWER, CONVERSATION), help="not both")
    made.add_argument("--asked", default=ASKED, metavar="TEXT", help="for the answer")
    made.add_argument("--tokens", type=int, default=1600, help="of the answer at most")
    made.add_argument("--turn-tokens", type=int, default=96, help="of a turn of the conversation at most")
    made.add_argument("--temperature", type=float, default=1.0)
    made.add_argument("--text-seed", type=int, default=1, help="of the texts; --seed is the link's")
    made.add_argument("--delay-ms", type=float, default=60.0, metavar="MS", help="on top of each forward")
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument("--draft", default="default", help="checkpoint folder of the draft, or 'default'")
    made.add_argument("--worker-alone", action="store_true", help="the worker has no draft")
    made.add_argument(
        "--every", type=float, default=0.2, metavar="S", help="between two looks at a node's plan"
    )
    made.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for pictures, and what they were drawn from"
    )
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    if not options.tour.startswith(PREFIX):
        raise UsageError(f"--tour {options.tour} is no tour", hint=f"for example {LEGS}")
    for flag in ("tokens", "turn_tokens"):
        if getattr(options, flag) < 1:
            raise UsageError(f"--{flag.replace('_', '-')} {getattr(options, flag)} is less than 1")
    if options.delay_ms < 0.0:
        raise UsageError(f"--delay-ms {options.delay_ms:g} is negative")
    if not 0.01 <= options.every <= 10.0:
        raise UsageError(f"--every {options.every:g} is not between 0.01 and 10")
    if len(set(options.strategies)) < len(options.strategies):
        raise UsageError("--strategies names one twice")
    for name in options.strategies:
        if name not in (*POLICIES, STREAMING):
            raise UsageError(
                f"there is no strategy {name!r} here", hint=f"choose from {', '.join([*POLICIES, STREAMING])}"
            )


async def travel_all(
    here: Place, asked: Sequence[str], tokens: int, seconds: float, options: Namespace
) -> dict[str, Journey]:
    """Send the user on the tour once with each strategy.

    Raises:
        FlexSpecError: an answer failed.
    """
    user = await here.here.start("traveller", "device", python("lab.benchmarks.tour.traveller"))
    found = {}
    for name in options.strategies:
        order = Order(
            here.urls[name],
            tuple(asked),
            tokens,
            options.temperature,
            options.text_seed,
            seconds,
            options.every,
        )
        await _travel(here, user, msgspec.structs.replace(order, asked=(WARM_UP,), tokens=16))
        found[name] = await _travel(here, user, order)
        if found[name].error:
            raise FlexSpecError(f"{name}: {found[name].error}")
        say(f"  {name}: {found[name].looks[-1].tokens} tokens")
    return found


async def _travel(here: Place, user: Process, order: Order) -> Journey:
    assert here.here.link is not None
    here.here.link.seek(0.0)
    await user.send(msgspec.to_builtins(order))
    return msgspec.convert(await user.event(within=order.seconds + 60.0), Journey)


async def measure(options: Namespace) -> int:
    """Measure, print and draw.

    Raises:
        FlexSpecError: a process failed, or two strategies told different texts.
    """
    check(options)
    if options.quick:
        options.tour = QUICK_LEGS if options.tour == LEGS else options.tour
        options.strategies = options.strategies[:2]
        options.only = options.only or ANSWER
    plan, legs = tour_plan(options.tour, options.seed, built_in()), legs_of(options.tour)
    questions, _ = chosen_questions(Namespace(prompts=options.prompts, questions=None))
    asked = {
        ANSWER: ([options.asked], options.tokens),
        CONVERSATION: ([one.text for one in questions], options.turn_tokens),
    }
    devices = Devices(options.draft, options.target, 0)
    worker = ["--target", options.target, "--draft", "none" if options.worker_alone else options.draft]
    results: dict[str, Any] = {}
    wrong: list[str] = []
    async with place(
        plan, nodes(options.strategies, devices), workers={RATIONED: worker}, delay_ms=options.delay_ms
    ) as here:
        for kind, (texts, tokens) in asked.items():
            if options.only in (kind, None):
                say(f"{kind}, {legs[-1].ends_s:g} s for each strategy")
                journeys = await travel_all(here, texts, tokens, legs[-1].ends_s, options)
                wrong += [f"{kind}, {one}" for one in differing(journeys)]
                results[kind] = summary(journeys, legs, plan.outages)
                _show(kind, results[kind], plan)
                if options.out is not None:
                    _keep(options, kind, journeys, plan)
    facts = {
        "tour": options.tour,
        "outages": msgspec.to_builtins(plan.outages),
        "delay_ms": options.delay_ms,
        "worker_alone": options.worker_alone,
        "temperature": options.temperature,
        "differ": wrong,
    }
    finish("tour", {**facts, **results}, quick=options.quick)
    if wrong:
        raise FlexSpecError(f"strategies told different texts: {'; '.join(wrong)}")
    return 0


def _keep(options: Namespace, kind: str, journeys: Mapping[str, Journey], plan: LinkPlan) -> None:
    from lab.benchmarks.tour.picture import draw

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{kind}.json").write_bytes(msgspec.json.encode(journeys))
    worker = "a worker without a draft model" if options.worker_alone else "a worker with a draft"
    draw(
        journeys,
        plan,
        legs_of(options.tour),
        first=options.strategies[0],
        title=f"One {kind} on a tour: {worker}, {options.delay_ms:g} ms on top of each of its forwards",
        file=options.out / kind,
    )


def _show(kind: str, found: Mapping[str, Any], plan: LinkPlan) -> None:
    legs = legs_of(plan.name)
    base = found.get(STREAMING)
    print(f"\n{kind}: tokens on each leg, and as a share of {STREAMING}'s\n")
    rows = []
    for name, one in found.items():
        cells = [
            f"{leg['tokens']:.0f}"
            + ("" if base is None else f" ({leg['tokens'] / max(1.0, other['tokens']):.2f})")
            for leg, other in zip(one["legs"], one["legs"] if base is None else base["legs"], strict=True)
        ]
        rows.append([name, *cells, one["tokens"], one["same_s"], *one["resumed_s"], one["turns"]])
    heads = [f"{leg.profile}, {leg.ends_s - leg.begins_s:g} s" for leg in legs]
    least = next(iter(found.values()))["same_tokens"]
    ends = [f"back after {one.ends_s:.1f} s, s" for one in plan.outages]
    print(table(["", *heads, "all", f"{least} tokens in, s", *ends, "turns complete"], rows))
    for name, one in found.items():
        print(f"\n{name}\n")
        lines = [
            [leg.profile, of["chosen"] or "-", of["share"], of["settled_s"], of["rounds"], of["silence_s"],
             of["rtt_ms"], " ".join(f"{level}:{count}" for level, count in of["qos"].items())]
            for leg, of in zip(legs, one["legs"], strict=True)
        ]  # fmt: skip
        print(
            table(["leg", "mostly", "share", "from s", "rounds", "silence s", "rtt ms", "QoS: looks"], lines)
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: asyncio.run(measure(build_parser().parse_args(arguments))), argv)


if __name__ == "__main__":
    sys.exit(main())
