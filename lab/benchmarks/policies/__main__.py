"""Policies beside the best fixed plan in hindsight, in simulated time, over links that none of them was trained on.

All meet the same texts, seeds and seconds of each link. Beside them stands what nobody could undercut, not even
somebody who knew all matches and the link (`lab.simulator.clairvoyant`). Recording and times are files that
`lab.benchmarks.simulated` makes from the models. Learned policies were trained on drawn texts, links and times alone
(`flexspec policy train`).
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from flexspec_mq.daemon.main import run_main
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.policies.adaptation import ROUNDS, adaptation, steps
from lab.benchmarks.policies.compared import CONDITIONS, Condition, asked, compared, link_names, setting_of
from lab.benchmarks.policies.decisions import decision_us, observations
from lab.benchmarks.policies.tables import show, show_steps
from lab.simulator.cost import Measured, read_times
from lab.simulator.recording import Recording, read_recording
from lab.testbed.link.recordings import link_plan


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
    made.add_argument("--answers", type=int, default=12, metavar="N", help="per link and policy, or step")
    made.add_argument(
        "--search",
        action="store_true",
        help="also look for the best plan of every few tokens; seconds an answer",
    )
    made.add_argument("--steps", action="store_true", help="only how well policies do after a step")
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
    wanted = {
        title: condition
        for number, (title, condition) in enumerate(CONDITIONS.items())
        if not options.conditions or number in options.conditions
    }
    one = _steps if options.steps else _links
    results = {title: one(options, recording, times, title, condition) for title, condition in wanted.items()}
    print(f"\n{time.perf_counter() - began:.0f} s")
    finish("policies", results, quick=options.quick)
    return 0


def _links(
    options: Namespace, recording: Recording, times: Measured, title: str, condition: Condition
) -> list[dict[str, Any]]:
    names = options.links or link_names(options.recorded)
    rows = []
    for name in names[: 2 if options.quick else None]:
        link = link_plan(name, options.seed, options.recorded)
        setting = setting_of(recording, times, link, condition, seed=options.seed)
        found = compared(asked(setting, link, options.answers), searches=options.search)
        rows.append({"link": name, **found})
    show(title, rows)
    return rows


def _steps(
    options: Namespace, recording: Recording, times: Measured, title: str, condition: Condition
) -> list[Mapping[str, Any]]:
    print(
        f"\n{title}\n\nfrom {ROUNDS} rounds after a step to the end of the answer: seconds as a share of those of "
        "the plan that is best in hindsight (which), and streaming's\n"
    )
    trials = 1 if options.quick else options.answers
    found = steps(recording, times, condition, trials=trials, seed=options.seed)
    rows = [adaptation(one) for one in found[: 1 if options.quick else None]]
    show_steps(rows)
    return rows


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
