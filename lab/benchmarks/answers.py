"""Seconds per answer over emulated links: the first draft, the current one, and cloud streaming, in one run.

Sides keep to a fixed plan without drafts of the worker: ``current`` drafts on the device, ``first`` does with another
draft, ``streaming`` not at all. ``default`` is an edge node as it comes, which may choose who drafts.

With ``--others N`` the worker serves N more sessions while it is asked, which write one text after the other with
the plan of the side that is asked. Their drafts are replayed (``--recording``, made by `lab.benchmarks.capacity`), so
that they take no core, and what they write is compared. Wasted rows are then those of all sessions.

A channel may be a recording (`docs/links.md`): ``--links recorded:5g-driving --recorded FOLDER``. Each question
begins at a second of the channel that is drawn from seed and question, and the link is set to it before each side is
asked: all sides meet the same piece of the channel.

A draft beside the target (``--worker-draft``) makes two more sides: ``colocated`` is streaming from a worker that
drafts, ``both`` is the current draft on the device, and the worker's own behind it where it runs ahead.

Speculation as it is usually done (`lab.benchmarks.traditional`) is a side where it is named: the same draft in the same
engine guesses K tokens and waits. ``traditional`` sends the whole distribution of each guess, ``traditional-zstd``
compresses it, ``traditional-top64`` sends the 64 likeliest, ``traditional-ids`` the guesses alone, and ``tcp-ids``
does so without a broker. ``on-device`` is the draft alone. Above temperature 0 sides that send distributions write
other texts of the same law; these, and the draft's own, are not compared.

Everything runs as users run it: Mosquitto, ``flexspec-cloud`` on one core, ``flexspec-edge serve`` on the other, the
link between them, and a client that asks over HTTP from the device's side. The sides answer each question one after
the other, in a new random order for each, so that a slow minute of the machine hits all alike. All that are compared
must say the same text; a difference fails the run. Emulated links need root and Linux; the link `loopback` is none.

A delay in milliseconds makes each forward of the target longer, as a bigger or busier target would. Ratios below 1
are faster; intervals are 95 % by the bootstrap over questions, which keeps a question's sides together. Bytes,
drafted tokens and wasted rows are means of an answer. Wasted are rows that the target read for tokens of a draft and
did not accept: the edge's, and the worker's own.
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

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench.channel_start import offset
from lab.bench.figures import seconds
from lab.bench.figures.seconds import Sample
from lab.bench.questions import Question
from lab.bench.testbed.node import RATIONED, UNRATIONED
from lab.bench.testbed.traditional import Traditional
from lab.bench.traditional.schemes import GUESSES, SCHEMES
from lab.benchmarks._common import finish, parser
from lab.benchmarks.pricing.asked import chosen_questions, say
from lab.benchmarks.pricing.compared import BOTH, COLOCATED, STREAMING, compare, show
from lab.benchmarks.pricing.sides import drafting, edge_nodes, schemes
from lab.benchmarks.pricing.site import Load, Site, site
from lab.simulator.recording import read_recording
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.link.recordings import PREFIX, link_plan
from lab.testbed.site.topology import LOOPBACK
from schemas.messages import MAX_AHEAD, MAX_DRAFT_TOKENS

QUICK_QUESTIONS, QUICK_TOKENS = 2, 12
WARM_UP = "Say hello."


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--links",
        nargs="+",
        default=["wifi", "5g", "4g"],
        metavar="LINK",
        help=f"profiles, {PREFIX}CHANNEL, or {LOOPBACK}",
    )
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; docs/links.md")
    made.add_argument(
        "--delays-ms", type=float, nargs="+", default=[0.0], metavar="MS", help="on top of each forward"
    )
    made.add_argument("--first", type=Path, metavar="FOLDER", help="checkpoint of the first draft")
    made.add_argument("--first-flags", default="", help="of flexspec-edge, for the first draft")
    made.add_argument("--draft", default="default", help="the current draft")
    made.add_argument(
        "--draft-flags",
        default="",
        help="of flexspec-edge, for the current draft",
    )
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
    made.add_argument(
        "--sides",
        nargs="+",
        metavar="SIDE",
        help=f"only these, beside {STREAMING}; {', '.join(SCHEMES)} are there only where they are named",
    )
    made.add_argument(
        "--guesses", type=int, default=GUESSES, metavar="K", help="tokens that traditional speculation drafts"
    )
    made.add_argument("--target", default="default", help="checkpoint folder of the target, or 'default'")
    made.add_argument(
        "--worker-flags",
        action="append",
        metavar="FLAGS",
        help="of flexspec-cloud; once more for another worker, one after the other: --worker-flags= "
        "--worker-flags=--engine=transformers compares with the engine of before",
    )
    made.add_argument("--others", type=int, default=0, metavar="N", help="more sessions at the worker")
    made.add_argument(
        "--recording",
        type=Path,
        metavar="FILE",
        help="what they write and draft: a recording of lab.benchmarks.capacity",
    )
    made.add_argument(
        "--others-ms",
        type=float,
        help="that a drafted token takes them; without it what it took when recorded",
    )
    made.add_argument(
        "--others-settle",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds that they write before each answer",
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
    if not 1 <= options.guesses <= MAX_DRAFT_TOKENS:
        raise UsageError(f"--guesses {options.guesses} is not between 1 and {MAX_DRAFT_TOKENS}")
    if options.first is not None and not options.first.is_dir():
        raise UsageError(f"--first {options.first} is no folder", hint="name a draft's checkpoint folder")
    _check_others(options)


def _check_others(options: Namespace) -> None:
    for flag in ("others", "others_ms", "others_settle"):
        value = getattr(options, flag)
        if value is not None and value < 0:
            raise UsageError(f"--{flag.replace('_', '-')} {value:g} is negative")
    if options.others and options.recording is None:
        raise UsageError(
            "--others needs what they write",
            hint="give --recording FILE; python -m lab.benchmarks.capacity --recording FILE makes one",
        )
    if options.others and schemes(options):
        raise UsageError(
            f"the worker of {schemes(options)[0]} serves no other sessions",
            hint="leave --others or the side out",
        )


def links(options: Namespace) -> dict[str, LinkPlan | None]:
    """The plan of each link by its name; None is loopback.

    Raises:
        UsageError: there is no such link, or its recording cannot be read.
    """
    return {
        name: None if name == LOOPBACK else link_plan(name, options.seed, options.recorded)
        for name in options.links
    }


def load(options: Namespace) -> Load | None:
    """The other sessions.

    Raises:
        UsageError: their recording cannot be read.
    """
    if not options.others:
        return None
    recording = read_recording(options.recording)
    pace = recording.draft_ms if options.others_ms is None else options.others_ms
    return Load(options.others, options.recording.resolve(), pace, options.others_settle, options.seed)


async def ask_all(
    place: Site,
    names: Sequence[str],
    questions: Sequence[Question],
    begins: Sequence[float | None],
    options: Namespace,
) -> list[Sample]:
    """Have every side answer every question, each where on the channel `begins` says."""
    rng = random.Random(options.seed)
    order = list(names)
    samples = []
    for name in order:
        await place.ask(name, body(WARM_UP, options, 0), alone=True)
    for number, question in enumerate(questions):
        rng.shuffle(order)
        for name in order:
            asked = body(question.text, options, 1 + number)
            answer, costs = await place.ask(name, asked, begins[number])
            samples.append(Sample.of_answer(number, question.category, name, answer, costs))
        say(f"  {number + 1} of {len(questions)} questions")
    return samples


def body(text: str, options: Namespace, number: int) -> dict[str, Any]:
    """A request of the chat endpoint."""
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": options.tokens,
        "temperature": options.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "seed": options.seed * 100_000 + number,
    }


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
    edges, plans, others = edge_nodes(options), links(options), load(options)
    wanted = schemes(options)
    apart = [name for name in wanted if not SCHEMES[name].says_the_targets_text(options.temperature)]
    questions, of = chosen_questions(options)
    results: list[dict[str, Any]] = []
    wrong: list[str] = []
    for (link, plan), delay, flags in itertools.product(
        plans.items(), options.delays_ms, options.worker_flags or [""]
    ):
        title = f"{link}, {delay:g} ms on top of each forward{flags and f', worker {flags}'}"
        say(title)
        draft = ["--draft", options.draft] if options.worker_draft else []
        worker = ["--target", options.target, *draft, *shlex.split(flags)]
        workers = {RATIONED: worker, UNRATIONED: [*worker, "--draft-rows", "all"]}
        begins = [
            None if plan is None else offset(plan, options.seed, number) for number in range(len(questions))
        ]
        old = Traditional(wanted, drafting(options), worker, options.guesses) if wanted else None
        async with site(plan, edges, workers=workers, delay_ms=delay, load=others, traditional=old) as place:
            samples = await ask_all(place, [*edges, *wanted], questions, begins, options)
        found = compare(samples, options.seed)
        differ = [questions[number].name for number in seconds.differing(samples, apart)]
        wrong += [f"{title}: question {name}" for name in differ]
        show(title, found)
        case = {"link": link, "delay_ms": delay, "worker": flags, "begins_s": begins, "differ": differ}
        results.append({**case, "categories": found})
    facts = {
        "questions": len(questions),
        "of": of,
        "tokens": options.tokens,
        "temperature": options.temperature,
        "others": options.others,
        "edges": edges,
        "traditional": {"sides": wanted, "guesses": options.guesses, "not_compared": apart},
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
