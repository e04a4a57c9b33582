"""Policies beside the best fixed plan in hindsight, in simulated time, over links that none of them was trained on.

All meet the same texts, seeds and seconds of each link. Recording and times are files that `benchmarks.simulated`
makes from the models. Learned policies were trained on drawn texts, links and times alone (`flexspec policy train`).
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._common import finish, parser, table
from benchmarks.policies.compared import COMPARED, CONDITIONS, compared, link_names, plan_of
from benchmarks.policies.decisions import decision_us, observations
from flexspec_mq.daemon.main import run_main
from flexspec_mq.simulator.cost import read_times
from flexspec_mq.simulator.recording import read_recording


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--times", type=Path, required=True, metavar="FILE")
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; docs/links.md")
    made.add_argument("--links", nargs="+", metavar="LINK", help="only these")
    made.add_argument(
        "--conditions", nargs="+", type=int, choices=range(len(CONDITIONS)), metavar="N", help="only these"
    )
    made.add_argument("--answers", type=int, default=12, metavar="N", help="per link and policy")
    made.add_argument("--decisions", action="store_true", help="only how long a plan takes")
    return made


def measure(options: Namespace) -> int:
    """Simulate and print.

    Raises:
        FlexSpecError: a file cannot be read, or an answer is wrong.
    """
    recording, times = read_recording(options.recording), read_times(options.times)
    if options.decisions:
        return _decisions(options, observations(recording, times, options.answers, options.seed))
    began = time.perf_counter()
    names = options.links or link_names(options.recorded)
    if options.quick:
        names = names[:2]
    links = [plan_of(name, options.seed, options.recorded) for name in names]
    results: dict[str, Any] = {}
    for number, (title, condition) in enumerate(CONDITIONS.items()):
        if options.conditions and number not in options.conditions:
            continue
        rows = [
            compared(recording, times, link, condition, answers=options.answers, seed=options.seed)
            for link in links
        ]
        results[title] = rows
        _show(title, rows)
    print(f"\n{time.perf_counter() - began:.0f} s")
    finish("policies", results, quick=options.quick)
    return 0


def _show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{title}\n")
    heads = ["link", "best fixed plan", "s", "streaming", "one plan", *COMPARED]
    one = min(
        rows[0]["fixed_s"], key=lambda name: fmean(row["fixed_s"][name] / row["best_s"] for row in rows)
    )
    rows = [{**row, "one plan": row["fixed_s"][one] / row["best_s"]} for row in rows]
    lines = [
        [row["link"], row["best"], row["best_s"], *(f"{row[name]:.3f}" for name in heads[3:])] for row in rows
    ]
    for what, of in (("mean", fmean), ("worst", max)):
        lines.append([what, "", "", *(f"{of([row[name] for row in rows]):.3f}" for name in heads[3:])])
    print(table(heads, lines))
    print(f"\none plan: {one}, the best fixed one over all these links")


def _decisions(options: Namespace, kept: Sequence[Any]) -> int:
    found = decision_us(kept)
    print(table(["policy", "µs a plan"], [[name, f"{value:.1f}"] for name, value in found.items()]))
    folder = files("flexspec_mq.controller") / "weights"
    sizes = {name: len((folder / name).read_bytes()) for name in ("rl.json", "predictor.json")}
    print(f"\n{len(kept)} observations; weights: {sizes}")
    finish("policies", {"decision_us": found, "bytes": sizes}, quick=options.quick)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
