"""``flexspec bench``: measure, keep, tell."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.daemon.progress import answer
from flexspec_mq.energy.presets import built_in
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.bench import machine
from lab.bench import options as flags

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from lab.bench.measuring import Answered, Asked, BenchChannel
    from lab.testbed.link.profiles import LinkPlan

RESULTS = "results"
"""Name of the files, without their kinds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(run, argv, extras="models,serve")


def run(argv: Sequence[str]) -> int:
    """Measure with these flags; write the results after each channel, and print them in the end.

    Raises:
        UsageError: nothing can be measured like this.
        FlexSpecError: a process ended, every answer failed, or strategies that write the target's text wrote
            different ones.
    """
    options = flags.build_parser().parse_args(argv)
    flags.check(options)
    # These need numpy: only now that what needs none has been complained about.
    from lab.bench.measuring import Asked, BenchChannel
    from lab.bench.tables import document

    questions, plans = flags.questions(options), flags.links(options)
    _check_out(options.out)
    asked = Asked(options.strategies, questions, options.tokens, options.temperature, options.seed)
    pairs = itertools.product(plans, options.delays_ms)
    answered: dict[BenchChannel, list[Answered]] = {BenchChannel(*pair): [] for pair in pairs}
    results: dict[str, Any] = {"run": _facts(options, len(questions))}

    def write() -> None:
        results["channels"] = _results(asked, answered)
        if results["channels"]:
            _write(results, options.out)

    asyncio.run(_measure(options, asked, plans, answered, write))
    answer(document(results))
    _say(f"written: {options.out / RESULTS}.md, .json")
    _check_failed(results["channels"])
    if wrong := [
        f"{one['title']}: {', '.join(one['differ'])}" for one in results["channels"] if one["differ"]
    ]:
        raise FlexSpecError(f"strategies wrote different texts; questions of {'; '.join(wrong)}")
    return 0


def _facts(options: Namespace, count: int) -> dict[str, Any]:
    """All that the figures of a run depend on."""
    energy = None
    if options.energy != "none":
        energy = {"device": options.energy, "radio": built_in().devices[options.energy].radio}
    return {
        "target": options.target,
        "draft": options.draft,
        "prompts": machine.digest(flags.prompts(options).read_bytes()),
        "questions": count,
        "tokens": options.tokens,
        "temperature": options.temperature,
        "seed": options.seed,
        "links": options.links,
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
        FlexSpecError: every answer failed.
    """
    failed = [one["reason"] for channel in channels for one in channel["failed"]]
    came = sum(one["answers"] for channel in channels for one in channel["strategies"].values())
    if failed and not came:
        raise FlexSpecError(f"no answer came: all {len(failed)} failed", hint=f"the last one: {failed[-1]}")
    if failed:
        _say(f"{len(failed)} of {len(failed) + came} answers failed; the tables say whose and why")


def _check_out(folder: Path) -> None:
    """Refuse a folder whose results would be lost, or that none can be written to."""
    if (folder / f"{RESULTS}.json").exists():
        raise UsageError(f"{folder} holds the results of a run", hint="name another --out, or remove them")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be used: {error.strerror}", hint="name another --out") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} cannot be written to", hint="name another --out")


async def _measure(
    options: Namespace,
    asked: Asked,
    plans: Mapping[str, LinkPlan | None],
    answered: Mapping[BenchChannel, list[Answered]],
    write: Callable[[], None],
) -> None:
    from lab.bench.measuring import ask_all
    from lab.bench.strategies import RATIONED, SERVER, UNRATIONED, nodes
    from lab.bench.testbed import bench_testbed

    worker = flags.worker_flags(options)
    workers = {RATIONED: worker, UNRATIONED: [*worker, "--draft-rows", "all"]}
    for channel, done in answered.items():
        plan = plans[channel.link]
        # Nothing makes the forwards of another server longer.
        names = [name for name in options.strategies if name != SERVER or not channel.delay_ms]
        edges = nodes(names, flags.devices(options))
        _say(f"{channel.title}: {len(asked.questions)} questions; daemons start")
        try:
            async with bench_testbed(
                plan,
                edges,
                workers=workers,
                delay_ms=channel.delay_ms,
                traditional=flags.traditional(options),
                server=flags.server(options) if SERVER in names else None,
                say=_say,
            ) as here:
                await ask_all(here, replace(asked, strategies=names), channel, plan, done, _say)
        finally:
            write()


def _results(asked: Asked, answered: Mapping[BenchChannel, Sequence[Answered]]) -> list[dict[str, Any]]:
    """Figures of the channels on which a question has been answered."""
    from lab.bench.figures import differing, summary
    from lab.bench.measuring import by_strategy
    from lab.bench.strategies import of_other_texts

    apart = of_other_texts(asked.strategies, asked.temperature)
    return [
        {
            "title": channel.title,
            "link": channel.link,
            "delay_ms": channel.delay_ms,
            "begins_s": [one.begins_s for one in done],
            "at": [one.at for one in done],
            "load": [one.load for one in done],
            "failed": [
                {
                    "strategy": failed.side,
                    "question": asked.questions[failed.question].name,
                    "reason": failed.reason,
                    "seconds": failed.seconds,
                }
                for one in done
                for failed in one.failed
            ],
            "differ": [
                asked.questions[number].name
                for number in differing([sample for one in done for sample in one.samples], apart)
            ],
            "answers": [asdict(sample) for one in done for sample in one.samples],
            "strategies": summary(by_strategy(done, asked.strategies), asked.seed, apart),
        }
        for channel, done in answered.items()
        if done
    ]


def _write(results: Mapping[str, Any], folder: Path) -> None:
    from flexspec_mq.daemon.files import whole
    from lab.bench.tables import document

    for kind, content in (("json", json.dumps(results, indent=1) + "\n"), ("md", document(results))):
        with whole(folder / f"{RESULTS}.{kind}") as part:
            part.write_text(content, "utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
