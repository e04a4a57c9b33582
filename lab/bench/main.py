"""``flexspec bench``: measure, keep, tell."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.files import whole
from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench import options as flags
from lab.benchmarks._common import machine, say

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from lab.bench.measuring import Answered, Asked, BenchChannel
    from lab.testbed.link.profiles import LinkPlan

RESULTS = "results.json"
"""All figures and answers of a run, in its folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve")


def run(argv: Sequence[str]) -> int:
    """Measure with these flags; write the results and print tables after each channel.

    Raises:
        UsageError: nothing can be measured like this.
        FlexSpecError: a process ended, every answer failed, or strategies that write the target's text wrote
            different ones.
    """
    options = flags.build_parser().parse_args(argv)
    flags.check(options)
    # These need numpy: only now that what needs none has been complained about.
    from lab.bench.figures import tables
    from lab.bench.measuring import Answered, Asked, BenchChannel

    questions, plans = flags.questions(options), flags.links(options)
    _check_out(options.out)
    asked = Asked(options.strategies, questions, options.tokens, options.temperature, options.seed)
    results: dict[str, Any] = {"run": vars(options), "machine": machine(), "channels": []}
    for link, delay_ms in itertools.product(plans, options.delays_ms):
        channel, answered = BenchChannel(link, delay_ms), list[Answered]()
        try:
            asyncio.run(_measure(options, asked, channel, plans[link], answered))
        finally:
            if answered:
                results["channels"].append(_result(asked, channel, answered))
                with whole(options.out / RESULTS) as part:
                    part.write_text(json.dumps(results, indent=1, default=str) + "\n", "utf-8")
                answer(tables(results["channels"][-1]))
    say(f"written: {options.out / RESULTS}")
    channels = results["channels"]
    failed = [one["reason"] for channel in channels for one in channel["failed"]]
    if failed and not any(channel["strategies"] for channel in channels):
        raise FlexSpecError(f"no answer came: all {len(failed)} failed", hint=f"the last one: {failed[-1]}")
    if wrong := [f"{one['title']}: {', '.join(one['differ'])}" for one in channels if one["differ"]]:
        raise FlexSpecError(f"strategies wrote different texts; questions of {'; '.join(wrong)}")
    return 0


def _check_out(folder: Path) -> None:
    """Refuse a folder whose results would be lost, or that none can be written to."""
    if (folder / RESULTS).exists():
        raise UsageError(f"{folder} holds the results of a run", hint="name another --out, or remove them")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", hint="name another --out") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written to", hint="name another --out")


async def _measure(
    options: Namespace, asked: Asked, channel: BenchChannel, plan: LinkPlan | None, answered: list[Answered]
) -> None:
    from lab.bench.measuring import ask_all
    from lab.bench.strategies import BESIDE, RATIONED, SERVER, UNRATIONED, nodes
    from lab.bench.testbed import bench_testbed

    worker = flags.worker_flags(options)
    # Nothing makes the forwards of another server longer.
    names = [name for name in options.strategies if name not in (SERVER, BESIDE) or not channel.delay_ms]
    say(f"{channel.title}: {len(asked.questions)} questions; daemons start")
    async with bench_testbed(
        plan,
        nodes(names, flags.devices(options)),
        workers={RATIONED: worker, UNRATIONED: [*worker, "--draft-rows", "all"]},
        delay_ms=channel.delay_ms,
        traditional=flags.traditional(options),
        server=flags.server(options) if SERVER in names else None,
        say=say,
    ) as here:
        await ask_all(here, replace(asked, strategies=names), channel, plan, answered, say)


def _result(asked: Asked, channel: BenchChannel, answered: Sequence[Answered]) -> dict[str, Any]:
    """Figures of a channel on which a question has been answered."""
    from lab.bench.figures import differing, summary
    from lab.bench.measuring import by_strategy
    from lab.bench.strategies import of_other_texts

    apart = of_other_texts(asked.strategies, asked.temperature)
    samples = [sample for one in answered for sample in one.samples]
    names = [question.name for question in asked.questions]
    return {
        "title": channel.title,
        "failed": [
            {"name": names[failed.question], **asdict(failed)} for one in answered for failed in one.failed
        ],
        "differ": [names[number] for number in differing(samples, apart)],
        "answers": [asdict(sample) for sample in samples],
        "strategies": summary(by_strategy(answered, asked.strategies), asked.seed, apart),
    }
