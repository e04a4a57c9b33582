"""``flexspec bench``: measure, keep, tell."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer
from flexspec_mq.errors import FlexSpecError
from lab.bench import options as flags
from lab.bench.identity import facts

if TYPE_CHECKING:
    from argparse import Namespace

    from lab.bench.measuring import Asked
    from lab.bench.run_folder import Channel, Kept
    from lab.testbed.link.profiles import LinkPlan

RESULTS = "results"
"""Name of the files, without their kinds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve")


def run(argv: Sequence[str]) -> int:
    """Measure with these flags, or go on; print and write the results.

    Raises:
        UsageError: nothing can be measured like this.
        FlexSpecError: a process ended, every answer failed, or strategies that write the target's text wrote
            different ones.
    """
    options = flags.build_parser().parse_args(argv)
    flags.check(options)
    # These need numpy: only now that what needs none has been complained about.
    from lab.bench.measuring import Asked
    from lab.bench.run_folder import Channel, folder_of_run

    questions, plans = flags.questions(options), flags.links(options)
    run_facts = facts(options, questions)
    asked = Asked(options.strategies, questions, options.tokens, options.temperature, options.seed)
    channels = [Channel(link, delay) for link, delay in itertools.product(plans, options.delays_ms)]
    here = {one: plans[one.link] for one in channels}
    with folder_of_run(options.out, run_facts) as kept:
        asyncio.run(_measure(options, asked, here, kept))
        results: dict[str, Any] = {
            "run": run_facts,
            "channels": _results(options, asked, here, kept),
        }
        _write(results, options, kept)
    _check_failed(results["channels"])
    if wrong := [
        f"{one['title']}: {', '.join(one['differ'])}" for one in results["channels"] if one["differ"]
    ]:
        raise FlexSpecError(f"strategies wrote different texts; questions of {'; '.join(wrong)}")
    return 0


def _check_failed(channels: Sequence[Mapping[str, Any]]) -> None:
    """Say how many answers failed, if any did.

    Raises:
        FlexSpecError: all.
    """
    failed = [one["reason"] for channel in channels for one in channel["failed"]]
    came = sum(one["answers"] for channel in channels for one in channel["strategies"].values())
    if failed and not came:
        raise FlexSpecError(f"no answer came: all {len(failed)} failed", hint=f"the last one: {failed[-1]}")
    if failed:
        _say(f"{len(failed)} of {len(failed) + came} answers failed; the tables say whose and why")


async def _measure(
    options: Namespace,
    asked: Asked,
    channels: Mapping[Channel, LinkPlan | None],
    kept: Kept,
) -> None:
    from lab.bench.measuring import ask_missing, missing
    from lab.bench.strategies import nodes
    from lab.bench.testbed.node import RATIONED, UNRATIONED
    from lab.bench.testbed.testbed import place

    worker = flags.worker_flags(options)
    workers = {RATIONED: worker, UNRATIONED: [*worker, "--draft-rows", "all"]}
    for channel, plan in channels.items():
        left = missing(asked, channel, kept)
        if not left:
            continue
        edges = nodes(options.strategies, flags.devices(options))
        _say(f"{channel.title}: {len(left)} of {len(asked.questions)} questions; daemons start")
        async with place(
            plan,
            edges,
            workers=workers,
            delay_ms=channel.delay_ms,
            traditional=flags.traditional(options),
            server=flags.server(options),
            say=_say,
        ) as here:
            await ask_missing(here, asked, channel, plan, kept, _say)


def _results(
    options: Namespace,
    asked: Asked,
    channels: Mapping[Channel, LinkPlan | None],
    kept: Kept,
) -> list[dict[str, Any]]:
    from lab.bench.figures.seconds import differing
    from lab.bench.figures.summary import summary
    from lab.bench.measuring import by_strategy
    from lab.bench.strategies import of_other_texts

    apart = of_other_texts(options.strategies, options.temperature)
    found = []
    for channel in channels:
        answered = kept.of(channel)
        samples = [sample for one in answered for sample in one.samples]
        found.append(
            {
                "title": channel.title,
                "link": channel.link,
                "delay_ms": channel.delay_ms,
                "begins_s": [one.begins_s for one in answered],
                "at": [one.at for one in answered],
                "load": [one.load for one in answered],
                "failed": [
                    {
                        "strategy": failed.side,
                        "question": asked.questions[failed.question].name,
                        "reason": failed.reason,
                        "seconds": failed.seconds,
                    }
                    for one in answered
                    for failed in one.failed
                ],
                "differ": [asked.questions[number].name for number in differing(samples, apart)],
                "strategies": summary(by_strategy(answered, asked.strategies), asked.seed, apart),
            }
        )
    return found


def _write(results: Mapping[str, Any], options: Namespace, kept: Kept) -> None:
    from flexspec_mq.daemon.files import whole
    from lab.bench.report.plots import draw
    from lab.bench.report.tables import document

    text = document(results)
    file = kept.path / RESULTS
    for kind, content in (("json", json.dumps(results, indent=1) + "\n"), ("md", text)):
        with whole(file.with_suffix(f".{kind}")) as part:
            part.write_text(content, "utf-8")
    plots = not options.no_plots and any(channel["strategies"] for channel in results["channels"])
    if plots:
        draw(results, file.with_suffix(".svg"), file.with_suffix(".png"))
    answer(text)
    _say(f"written: {file}.md, .json{', .svg, .png' if plots else ''}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
