"""Measured points for the map: outputs of `lab.benchmarks.answers`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexspec_mq.errors import UsageError
from lab.benchmarks.capacity.strategies import COLOCATED, DEFAULT, STREAMING
from lab.benchmarks.map.cells import CPU, Cell
from lab.benchmarks.simulated.__main__ import read_run
from lab.testbed.link.profiles import LinkPlan
from lab.testbed.link.recordings import link_plan
from lab.testbed.site.topology import LOOPBACK

_SIDES = DEFAULT, STREAMING, COLOCATED


@dataclass(frozen=True, slots=True)
class Point:
    """A measured cell.

    Attributes:
        link: its name.
        cell: what was measured there.
    """

    link: str
    cell: Cell


def points(paths: Sequence[Path], seed: int, folder: Path | None) -> list[Point]:
    """Those of kept runs, all of whose cases have the default and both others.

    Args:
        paths: outputs of `lab.benchmarks.answers`.
        seed: of the links.
        folder: with recordings of channels.

    Raises:
        UsageError: a file has no such results, or a link is not known.
    """
    return [point for path in paths for point in _of(path, seed, folder)]


def _of(path: Path, seed: int, folder: Path | None) -> Iterator[Point]:
    run = read_run(path)
    for case in run["cases"]:
        sides: Mapping[str, Any] = case["categories"]["all"]
        if not set(_SIDES) <= set(sides):
            raise UsageError(f"{path} has not all of {', '.join(_SIDES)}", hint="name them with --sides")
        stream = sides[STREAMING]
        each = stream["tokens"] / stream["answers"]
        link = case["link"]
        rtt = 0.0 if link == LOOPBACK else round_trip(link_plan(link, seed, folder))
        yield Point(
            link,
            Cell(
                CPU,
                1 + run["others"],
                1000 * (stream["median_s"] - stream["median_first_s"]) / max(1.0, each - 1),
                rtt,
                {name: sides[name]["mean_s"] for name in _SIDES},
            ),
        )


def round_trip(plan: LinkPlan) -> float:
    """Milliseconds of both ways' delays, in the mean over a link's states."""
    states = plan.profile.states
    return sum(state.up.delay_ms.value + state.down.delay_ms.value for state in states) / len(states)
