"""Seconds per answer over emulated links: the first draft, the current one, and cloud streaming, in one run.

A draft beside the target (``--worker-draft``) makes two more sides: ``colocated`` is streaming from a worker that
drafts, ``both`` is the current draft on the device, and the worker's own behind it where it runs ahead.

Everything runs as users run it: Mosquitto, ``flexspec-cloud`` on one core, ``flexspec-edge serve`` on the other, the
link between them, and a client that asks over HTTP from the device's side. The sides answer each question one after
the other, in a new random order for each, so that a slow minute of the machine hits all alike. All must say the same
text; a difference fails the run. Emulated links need root and Linux; the link `loopback` is none.

A delay in milliseconds makes each forward of the target longer, as a bigger or busier target would. Ratios below 1
are faster than streaming; intervals are 95 % by the bootstrap over questions.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._common import finish, parser, table
from benchmarks.parts.questions import Question
from benchmarks.pricing import seconds
from benchmarks.pricing.bootstrap import shown
from benchmarks.pricing.seconds import Sample
from benchmarks.pricing.setup import ALL, chosen_questions, say
from benchmarks.pricing.site import Site, site
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.link.profiles import built_in
from flexspec_mq.site.topology import LOOPBACK
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS

QUICK_QUESTIONS, QUICK_TOKENS = 2, 12
STREAMING, COLOCATED, BOTH = "streaming", "colocated", "both"
WARM_UP = "Say hello."


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--links", nargs="+", default=["wifi", "5g", "4g"], metavar="LINK", help=f"profiles, or {LOOPBACK}"
    )
    made.add_argument(
        "--delays-ms", type=float, nargs="+", default=[0.0], metavar="MS", help="on top of each forward"
    )
    made.add_argument("--first", type=Path, metavar="FOLDER", help="checkpoint of the first draft")
    made.add_argument("--first-flags", default="", help="of flexspec-edge, for the first draft")
    made.add_argument("--draft", default="default", help="the current draft")
    made.add_argument("--draft-flags", default="", help="of flexspec-edge, for the current draft")
    made.add_argument(
        "--streaming-flags",
        default=f"--draft none --no-lookup --draft-length 0 --ahead {MAX_AHEAD}",
        help="of flexspec-edge, for streaming",
    )
    made.add_argument(
        "--worker-draft",
        type=int,
        default=4,
        metavar="K",
        help=f"tokens that the worker drafts itself for the sides {COLOCATED} and {BOTH}, with the current draft; "
        "0 leaves these out",
    )
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument(
        "--worker-flags",
        action="append",
        metavar="FLAGS",
        help="of flexspec-cloud; once more for another worker, one after the other: --worker-flags= "
        "--worker-flags=--engine=transformers compares with the engine of before",
    )
    made.add_argument("--temperature", type=float, default=0.0)
    made.add_argument("--tokens", type=int, default=64, help="new tokens per answer at most")
    made.add_argument("--questions", type=int, metavar="N", help="only N of the questions, evenly spaced")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that nothing can be measured with.

    Raises:
        UsageError: naming the flag.
    """
    for flag in ("tokens", "questions"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value} is less than 1")
    if min(options.delays_ms) < 0.0:
        raise UsageError(f"--delays-ms {min(options.delays_ms):g} is negative")
    if not 0 <= options.worker_draft <= MAX_DRAFT_TOKENS:
        raise UsageError(f"--worker-draft {options.worker_draft} is not between 0 and {MAX_DRAFT_TOKENS}")
    for name in options.links:
        if name != LOOPBACK:
            built_in().get(name)
    if options.first is not None and not options.first.is_dir():
        raise UsageError(f"--first {options.first} is no folder", hint="name a draft's checkpoint folder")


def sides(options: Namespace) -> dict[str, list[str]]:
    """Flags of each side's edge node.

    Raises:
        UsageError: flags that no shell could read.
    """
    try:
        found = {"current": ["--draft", options.draft, *shlex.split(options.draft_flags)]}
        if options.first is not None:
            found["first"] = ["--draft", str(options.first.resolve()), *shlex.split(options.first_flags)]
        found[STREAMING] = shlex.split(options.streaming_flags)
        if options.worker_draft:
            own = ["--worker-draft", str(options.worker_draft)]
            found[COLOCATED], found[BOTH] = [*found[STREAMING], *own], [*found["current"], *own]
    except ValueError as error:
        raise UsageError(f"flags of an edge node cannot be read: {error}") from error
    return found


async def ask_all(
    place: Site, names: Sequence[str], questions: Sequence[Question], options: Namespace
) -> list[Sample]:
    """Have every side answer every question."""
    rng = random.Random(options.seed)
    order = list(names)
    samples = []
    for name in order:
        await place.ask(name, body(WARM_UP, options, 0))
    for number, question in enumerate(questions):
        rng.shuffle(order)
        for name in order:
            answer = await place.ask(name, body(question.text, options, 1 + number))
            samples.append(Sample.of_answer(number, question.category, name, answer))
        say(f"  {number + 1} of {len(questions)} questions")
    return samples


def body(text: str, options: Namespace, number: int) -> dict[str, Any]:
    """A request of the chat endpoint."""
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": options.tokens,
        "temperature": options.temperature,
        "seed": options.seed * 100_000 + number,
    }


def compare(samples: Sequence[Sample], seed: int) -> dict[str, Any]:
    """Figures of each side, and its seconds as a share of streaming's, by category and altogether."""
    categories = {sample.category for sample in samples}
    groups = {name: [one for one in samples if one.category == name] for name in sorted(categories)}
    return {name: _of_group(group, seed) for name, group in {**groups, ALL: list(samples)}.items()}


def _of_group(group: Sequence[Sample], seed: int) -> dict[str, Any]:
    by_side: dict[str, list[Sample]] = {}
    for sample in group:
        by_side.setdefault(sample.side, []).append(sample)
    result: dict[str, Any] = {name: seconds.figures(found) for name, found in by_side.items()}
    for name, found in by_side.items():
        if name != STREAMING:
            result[name]["of_streaming"] = seconds.ratios(found, by_side[STREAMING], seed=seed)
    if COLOCATED in by_side:
        for name in (side for side in ("current", BOTH) if side in by_side):
            result[name]["of_colocated"] = seconds.ratios(by_side[name], by_side[COLOCATED], seed=seed)
    if "first" in by_side:
        result["current"]["of_first"] = seconds.ratios(by_side["current"], by_side["first"], seed=seed)
    return result


def show(title: str, found: dict[str, Any]) -> None:
    """Print the tables of one link and delay."""
    rows: list[list[Any]] = []
    for name, one in found[ALL].items():
        ratio = one.get("of_streaming")
        rows.append(
            [
                name,
                *(one[key] for key in ("median_s", "mean_s", "median_first_s", "tokens_per_s")),
                *(one[key] for key in ("tokens_per_round", "acceptance", "bytes_up", "bytes_down")),
                *(
                    (shown(ratio["total"], ".2f"), shown(ratio["median"], ".2f"), ratio["verdict"])
                    if ratio
                    else [None] * 3
                ),
            ]
        )
    headers = [
        "",
        "median, s",
        "mean, s",
        "first, s",
        "tokens/s",
        "tokens/round",
        "accepted",
        "B up",
        "B down",
    ]
    print(title)
    print(table([*headers, "of streaming", "of medians", ""], rows))
    if "of_first" in found[ALL]["current"]:
        print(f"current of first: {shown(found[ALL]['current']['of_first']['total'], '.2f')}")
    for name, one in found[ALL].items():
        if "of_colocated" in one:
            print(f"{name} of {COLOCATED}: {shown(one['of_colocated']['total'], '.2f')}")
    # Each group has its sides in the order in which they answered.
    others = [name for name in found[ALL] if name != STREAMING]
    rows = [
        [
            category,
            group[STREAMING]["answers"],
            group[STREAMING]["mean_s"],
            *(
                f"{shown(group[name]['of_streaming']['total'], '.2f')} {group[name]['of_streaming']['verdict']}"
                for name in others
            ),
        ]
        for category, group in found.items()
    ]
    print()
    print(table(["", "answers", "streaming, s", *(f"{name} of streaming" for name in others)], rows))
    print()


async def measure(options: Namespace) -> int:
    """Measure and print.

    Raises:
        FlexSpecError: a process failed, or two sides said different texts.
    """
    check(options)
    if options.quick:
        options.tokens = min(options.tokens, QUICK_TOKENS)
        options.questions = min(options.questions or QUICK_QUESTIONS, QUICK_QUESTIONS)
        options.links, options.delays_ms = options.links[:1], options.delays_ms[:1]
        options.worker_flags = (options.worker_flags or [""])[:1]
    edges = sides(options)
    questions, of = chosen_questions(options)
    results: list[dict[str, Any]] = []
    wrong: list[str] = []
    for link, delay, flags in itertools.product(
        options.links, options.delays_ms, options.worker_flags or [""]
    ):
        title = f"{link}, {delay:g} ms on top of each forward{flags and f', worker {flags}'}"
        say(title)
        draft = ["--draft", options.draft] if options.worker_draft else []
        worker = ["--target", options.target, *draft, *shlex.split(flags)]
        async with site(link, options.seed, edges, worker=worker, delay_ms=delay) as place:
            samples = await ask_all(place, list(edges), questions, options)
        found = compare(samples, options.seed)
        differ = [questions[number].name for number in seconds.differing(samples)]
        wrong += [f"{title}: question {name}" for name in differ]
        show(title, found)
        results.append(
            {"link": link, "delay_ms": delay, "worker": flags, "categories": found, "differ": differ}
        )
    facts = {
        "questions": len(questions),
        "of": of,
        "tokens": options.tokens,
        "temperature": options.temperature,
        "edges": edges,
    }
    finish("answers", {**facts, "cases": results}, quick=options.quick)
    if wrong:
        raise FlexSpecError(f"the sides said different texts: {'; '.join(wrong)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: asyncio.run(measure(build_parser().parse_args(arguments))), argv)


if __name__ == "__main__":
    sys.exit(main())
