"""Where the default is ahead of the best of the others, and where it is not, in simulated time.

For targets of several speeds, round trips and numbers of sessions at a worker: seconds per answer of an edge as it
comes, over those of the best of streaming, a draft beside the target for everybody, and traditional speculation with
token ids. On this processor's times, and on a modelled accelerator. Recording and times are files that
`lab.benchmarks.simulated` makes from the models. Outputs of `lab.benchmarks.answers` (``--measured``) are drawn on it.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from math import exp, log
from pathlib import Path
from statistics import fmean
from typing import Any

from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import UsageError, how_to_install
from lab.benchmarks._common import finish, parser, table
from lab.benchmarks.map.cells import LOSS, Cell, Grid, cells
from lab.benchmarks.map.points import Point, points
from lab.benchmarks.pricing.asked import say
from lab.simulator.cost import read_times
from lab.simulator.recording import read_recording


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--recording", type=Path, required=True, metavar="FILE")
    made.add_argument("--times", type=Path, required=True, metavar="FILE")
    made.add_argument(
        "--measured",
        nargs="*",
        default=[],
        type=Path,
        metavar="FILE",
        help="outputs of lab.benchmarks.answers",
    )
    made.add_argument("--recorded", type=Path, metavar="FOLDER", help="recordings of channels; docs/links.md")
    made.add_argument("--into", type=Path, metavar="FOLDER", help="for map.svg and map.png")
    made.add_argument(
        "--sessions", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="at the worker"
    )
    made.add_argument(
        "--delays-ms",
        type=float,
        nargs="+",
        default=[0.0, 30.0, 60.0, 180.0],
        metavar="MS",
        help="on top of each forward of this processor",
    )
    made.add_argument(
        "--weights-ms",
        type=float,
        nargs="+",
        default=[6.7, 13.4, 26.8, 67.0],
        metavar="MS",
        help="that the accelerator reads the target's weights for",
    )
    made.add_argument(
        "--rtts-ms", type=float, nargs="+", default=[1.0, 20.0, 60.0, 200.0, 600.0], metavar="MS"
    )
    made.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes that simulate"
    )
    made.add_argument("--texts", type=int, default=8, metavar="N", help="of each crowd, at least")
    return made


def check(options: Namespace) -> None:
    """Refuse flags that there is no map of.

    Raises:
        UsageError: naming the flag.
    """
    for name, least in (("sessions", 1), ("delays_ms", 0.0), ("weights_ms", 0.1), ("rtts_ms", 0.1)):
        values = getattr(options, name)
        flag = f"--{name.replace('_', '-')}"
        if min(values) < least:
            raise UsageError(f"{flag} {min(values):g} is less than {least:g}")
        if len(set(values)) < len(values):
            raise UsageError(f"{flag} names one twice")
    for name in ("texts", "jobs"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)} is less than 1")


def measure(options: Namespace) -> int:
    """Simulate, print and draw.

    Raises:
        FlexSpecError: a file cannot be read or written, or a simulated text is wrong.
    """
    check(options)
    if options.quick:
        options.delays_ms, options.weights_ms = options.delays_ms[:2], options.weights_ms[:2]
        options.rtts_ms, options.sessions = options.rtts_ms[:2], options.sessions[:1]
    recording, times = read_recording(options.recording), read_times(options.times)
    measured = points(options.measured, options.seed, options.recorded)
    grid = Grid(
        options.delays_ms,
        options.weights_ms,
        sorted(options.rtts_ms),
        options.sessions,
        options.texts,
        options.seed,
    )
    began = time.perf_counter()
    found: list[Cell] = []
    for cell in cells(grid, recording, times, options.jobs):
        if not found or (cell.worker, cell.sessions) != (found[-1].worker, found[-1].sessions):
            say(f"{cell.worker}, {cell.sessions} sessions")
        found.append(cell)
    show(found, measured)
    seconds = time.perf_counter() - began
    print(f"{seconds:.0f} s")
    if options.into is not None:
        _draw(found, measured, options.into)
    rows = [{**asdict(cell), "rival": cell.rival, "ratio": cell.ratio} for cell in found]
    kept = [{"link": one.link, **asdict(one.cell), "ratio": one.cell.ratio} for one in measured]
    finish("map", {"cells": rows, "measured": kept, "seconds": seconds}, quick=options.quick)
    return 0


def show(found: Sequence[Cell], measured: Sequence[Point]) -> None:
    """Print a table for each panel, one of all losses, and the measured points."""
    panels = dict.fromkeys((cell.worker, cell.sessions) for cell in found)
    summary: list[list[Any]] = []
    for worker, sessions in panels:
        mine = [cell for cell in found if (cell.worker, cell.sessions) == (worker, sessions)]
        rtts = list(dict.fromkeys(cell.rtt_ms for cell in mine))
        targets = dict.fromkeys(cell.target_ms for cell in mine)
        print(f"{worker}, {sessions} sessions: default / best other, and which that is\n")
        rows = [
            [
                f"{target:.0f}",
                *(f"{cell.ratio:.2f} {cell.rival}" for cell in mine if cell.target_ms == target),
            ]
            for target in targets
        ]
        print(table(["target, ms / round trip, ms", *(f"{rtt:g}" for rtt in rtts)], rows))
        print()
        ratios = [cell.ratio for cell in mine]
        summary.append(
            [
                f"{worker}, {sessions}",
                len(mine),
                sum(ratio < 2 - LOSS for ratio in ratios),
                sum(ratio > LOSS for ratio in ratios),
                exp(fmean(map(log, ratios))),
                min(ratios),
                max(ratios),
            ]
        )
    print(table(["worker, sessions", "cells", "won", "lost", "mean", "best", "worst"], summary))
    losses = sorted((cell for cell in found if cell.ratio > LOSS), key=lambda cell: -cell.ratio)
    rows = [
        [
            f"{cell.worker}, {cell.sessions}",
            f"{cell.target_ms:.0f}",
            f"{cell.rtt_ms:g}",
            cell.rival,
            f"{cell.ratio:.2f}",
        ]
        for cell in losses
    ]
    if rows:
        print("\nlosses\n")
        print(table(["worker, sessions", "target, ms", "round trip, ms", "best other", "ratio"], rows))
    if measured:
        print("\nmeasured\n")
        rows = [
            [
                one.link,
                str(one.cell.sessions),
                f"{one.cell.target_ms:.0f}",
                f"{one.cell.rtt_ms:.0f}",
                one.cell.rival,
                f"{one.cell.ratio:.2f}",
            ]
            for one in measured
        ]
        print(table(["link", "sessions", "target, ms", "round trip, ms", "best other", "ratio"], rows))
    print()


def _draw(found: Sequence[Cell], measured: Sequence[Point], folder: Path) -> None:
    try:
        from lab.benchmarks.map.draw import draw

        folder.mkdir(parents=True, exist_ok=True)
        draw(found, measured, folder / "map.svg", folder / "map.png")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a map needs {error.name}", hint=f"install it, {how_to_install('bench')}, or leave --into out"
        ) from error
    except OSError as error:
        raise UsageError(f"the map cannot be written to {folder}: {error.strerror}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
