"""``flexspec bench``: measure, keep, tell."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer
from flexspec_mq.energy.presets import built_in
from flexspec_mq.errors import FlexSpecError
from lab.bench import machine
from lab.bench import options as flags

if TYPE_CHECKING:
    from argparse import Namespace

    from lab.bench.measuring import Asked
    from lab.bench.run_folder import BenchChannel, RunFolder
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
    from lab.bench.run_folder import BenchChannel, folder_of_run

    questions, plans = flags.questions(options), flags.links(options)
    run_facts = _facts(options, len(questions))
    asked = Asked(options.strategies, questions, options.tokens, options.temperature, options.seed)
    channels = [BenchChannel(link, delay) for link, delay in itertools.product(plans, options.delays_ms)]
    here = {one: plans[one.link] for one in channels}
    with folder_of_run(options.out, run_facts) as kept:
        asyncio.run(_measure(options, asked, here, kept))
        results: dict[str, Any] = {
            "run": run_facts,
            "channels": _results(options, asked, here, kept),
        }
        _write(results, kept)
    _check_failed(results["channels"])
    if wrong := [
        f"{one['title']}: {', '.join(one['differ'])}" for one in results["channels"] if one["differ"]
    ]:
        raise FlexSpecError(f"strategies wrote different texts; questions of {'; '.join(wrong)}")
    return 0


def _facts(options: Namespace, count: int) -> dict[str, Any]:
    """Identity of a run: all that must be the same when it goes on."""
    energy = None
    if options.energy != "none":
        energy = {"device": options.energy, "radio": built_in().device(options.energy).radio}
    return {
        "target": machine.model(options.target),
        "draft": machine.model(options.draft),
        "prompts": machine.digest(flags.prompts(options).read_bytes()),
        "questions": count,
        "tokens": options.tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "links": options.links,
        "recorded": None if options.recorded is None else str(options.recorded.resolve()),
        "delays_ms": options.delays_ms,
        "strategies": options.strategies,
        "guesses": options.guesses,
        "worker_draft": options.worker_draft,
        "edge_flags": options.edge_flags,
        "worker_flags": options.worker_flags,
        "server": options.server,
        "energy": energy,
        "machine": machine.machine(),
        "versions": machine.versions(),
    }


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
    channels: Mapping[BenchChannel, LinkPlan | None],
    kept: RunFolder,
) -> None:
    from lab.bench.measuring import ask_missing, missing
    from lab.bench.strategies import RATIONED, SERVER, UNRATIONED, nodes
    from lab.bench.testbed import bench_testbed

    worker = flags.worker_flags(options)
    workers = {RATIONED: worker, UNRATIONED: [*worker, "--draft-rows", "all"]}
    for channel, plan in channels.items():
        left = missing(asked, channel, kept)
        if not left:
            continue
        # Nothing makes the forwards of another server longer.
        names = [name for name in options.strategies if name != SERVER or not channel.delay_ms]
        edges = nodes(names, flags.devices(options))
        _say(f"{channel.title}: {len(left)} of {len(asked.questions)} questions; daemons start")
        async with bench_testbed(
            plan,
            edges,
            workers=workers,
            delay_ms=channel.delay_ms,
            traditional=flags.traditional(options),
            server=flags.server(options) if SERVER in names else None,
            say=_say,
        ) as here:
            await ask_missing(here, replace(asked, strategies=names), channel, plan, kept, _say)


def _results(
    options: Namespace,
    asked: Asked,
    channels: Mapping[BenchChannel, LinkPlan | None],
    kept: RunFolder,
) -> list[dict[str, Any]]:
    from lab.bench.figures import differing, summary
    from lab.bench.measuring import by_strategy
    from lab.bench.strategies import of_other_texts

    apart = of_other_texts(options.strategies, options.temperature)
    found = []
    for channel in channels:
        answered = kept.answered_on(channel)
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


def _write(results: Mapping[str, Any], kept: RunFolder) -> None:
    from flexspec_mq.daemon.files import whole
    from lab.bench.tables import document

    text = document(results)
    file = kept.path / RESULTS
    for kind, content in (("json", json.dumps(results, indent=1) + "\n"), ("md", text)):
        with whole(file.with_suffix(f".{kind}")) as part:
            part.write_text(content, "utf-8")
    answer(text)
    _say(f"written: {file}.md, .json")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
