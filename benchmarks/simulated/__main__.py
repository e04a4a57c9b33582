"""The simulator beside real daemons: answers of a kept run of `benchmarks.answers`, simulated on the same channels.

Each side of each case is simulated with the flags of its edge node, the questions' recorded texts, the seconds of the
channel at which they began, and as many other sessions. The recording must be of the questions that were asked: it is
made if its file is missing, and so are the times of the worker's steps and the draft's tokens. Both need the models.

The seconds of an answer are those of the run's own machine: measure the times there, alone.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks._common import finish, parser, table
from benchmarks.pricing.others import plan_of
from benchmarks.replay.record import recording as recorded
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError
from flexspec_mq.link.profiles import LinkPlan
from flexspec_mq.link.recordings import link_plan
from flexspec_mq.simulator.cost import Measured, keep_times, read_times
from flexspec_mq.simulator.recording import Recording
from flexspec_mq.simulator.simulation import Answer, Setting, simulate
from flexspec_mq.simulator.worker import WorkerKind
from flexspec_mq.site.topology import LOOPBACK

WITHIN = 0.1
"""How far simulated seconds may be from measured ones."""
_FIGURES: Mapping[str, Callable[[Answer], float]] = {
    "mean_s": lambda one: one.seconds,
    "ip_up": lambda one: one.up.bytes,
    "ip_down": lambda one: one.down.bytes,
    "bytes_up": lambda one: one.traffic.up,
    "bytes_down": lambda one: one.traffic.down,
    "proposed": lambda one: one.drafted,
    "wasted_edge": lambda one: one.wasted,
    "wasted_own": lambda one: one.wasted_own,
}
"""Means of answers that both tell, by their name in the run."""


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument(
        "--runs", nargs="+", type=Path, required=True, metavar="FILE", help="outputs of benchmarks.answers"
    )
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--times", type=Path, required=True, metavar="FILE")
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; docs/links.md")
    made.add_argument("--target", default="default")
    made.add_argument("--draft", default="default")
    made.add_argument("--rounds", type=int, default=10, help="of measuring times, of which medians count")
    return made


def read_run(path: Path) -> dict[str, Any]:
    """The results of a kept run.

    Raises:
        UsageError: it has none.
    """
    try:
        found = msgspec.json.decode(path.read_text("utf-8").splitlines()[-1])
        results: dict[str, Any] = found["results"]
        _ = results["cases"], results["edges"], results["questions"]
    except (OSError, IndexError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise UsageError(
            f"{path} does not end with the results of benchmarks.answers: {error}",
            hint="keep all that it prints on standard output",
        ) from error
    return results


def models_of(options: Namespace, run: Mapping[str, Any]) -> tuple[Recording, Measured]:
    """Texts and times, from their files or made now.

    Raises:
        FlexSpecError: they cannot be read or made, or are of something else.
    """
    wanted = Namespace(
        prompts=options.prompts,
        questions=run["questions"],
        target=options.target,
        draft=options.draft,
        tokens=run["tokens"],
        temperatures=[run["temperature"]],
        seed=options.seed,
        recording=options.recording,
    )
    texts = recorded(wanted)
    if not options.times.exists():
        from benchmarks.simulated.times import measure

        keep_times(options.times, measure(options))
    return texts, read_times(options.times)


def simulated(
    case: Mapping[str, Any], flags: Sequence[str], link: LinkPlan | None, setting: Setting
) -> list[Answer]:
    """The answers of one side of one case."""
    edge = plan_of(flags)
    # Of two workers one drafts for everybody; see `benchmarks.answers`.
    kind = WorkerKind(rationed=edge.version == "base", lookup=True, reads=True)
    times = msgspec.structs.replace(setting.times, step=setting.times.step + case["delay_ms"])
    one = replace(setting, times=times, link=link, drafts="none" not in flags, worker=kind)
    return simulate(one, edge.plan.new_policy, begins_s=case["begins_s"])


def compared(measured: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    """Measured and simulated figures of a side."""
    found = {name: float(np.mean([value(one) for one in answers])) for name, value in _FIGURES.items()}
    found["median_s"] = float(np.median([one.seconds for one in answers]))
    found["median_first_s"] = float(np.median([one.first for one in answers]))
    found["tokens_per_round"] = sum(one.tokens for one in answers) / sum(one.rounds for one in answers)
    return {
        "measured": {name: measured[name] for name in found},
        "simulated": found,
        "ratio": found["mean_s"] / measured["mean_s"],
        "problems": sorted({one.problem for one in answers} - {""}),
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print measured and simulated figures side by side."""
    names = (
        "mean_s",
        "median_s",
        "median_first_s",
        "tokens_per_round",
        "ip_up",
        "ip_down",
        "proposed",
        "wasted_own",
    )
    heads = ["channel, side", "simulated / measured"]
    lines = []
    for row in rows:
        line = [f"{row['link']}, {row['side']}", row["ratio"]]
        for name in names:
            line += [f"{_short(row['measured'][name])} {_short(row['simulated'][name])}"]
        lines.append(line)
    print(table([*heads, *names], lines))
    print("\neach column: measured, simulated")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def measure(options: Namespace) -> int:
    """Simulate and print."""
    rows: list[dict[str, Any]] = []
    spent, count = 0.0, 0
    for path in options.runs:
        run = read_run(path)
        texts, times = models_of(options, run)
        setting = Setting(recording=texts, times=times, others=run["others"], seed=options.seed)
        for case in run["cases"]:
            link = case["link"]
            plan = None if link == LOOPBACK else link_plan(link, options.seed, options.recorded)
            for side, flags in run["edges"].items():
                began = time.perf_counter()
                answers = simulated(case, flags, plan, setting)
                spent, count = spent + time.perf_counter() - began, count + len(answers)
                found = compared(case["categories"]["all"][side], answers)
                rows.append({"link": link, "delay_ms": case["delay_ms"], "side": side, **found})
    show(rows)
    off = [row for row in rows if abs(row["ratio"] - 1.0) > WITHIN]
    print(
        f"\n{len(rows) - len(off)} of {len(rows)} within {WITHIN:.0%}; {count / spent:.0f} answers a second"
    )
    finish("simulated", {"rows": rows, "answers_per_s": count / spent}, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
