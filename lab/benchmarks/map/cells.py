"""Cells of the map: seconds per answer of each way to serve, for one target, round trip and number of sessions.

All sessions of a worker are alike: devices at one round trip that write one text after the other in the same way. All
ways of a cell write the same texts in the same order. Links lose nothing and have one delay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean

import msgspec

from edge_node.settings import PlanOptions
from flexspec_mq.errors import FlexSpecError
from lab.bench.traditional.schemes import GUESSES, IDS
from lab.benchmarks.capacity.strategies import COLOCATED, DEFAULT, STRATEGIES, STREAMING, Strategy
from lab.benchmarks.capacity.virtual_crowd import Place, VirtualCrowd
from lab.benchmarks.parts.pool import pool
from lab.benchmarks.replay.crowds import texts_each
from lab.simulator.accelerator import Accelerator, Modelled
from lab.simulator.cost import Measured, TargetForward, Times
from lab.simulator.recording import Recording

WAYS: Mapping[str, Strategy] = {
    DEFAULT: STRATEGIES[DEFAULT],
    STREAMING: STRATEGIES[STREAMING],
    COLOCATED: STRATEGIES[COLOCATED],
    IDS: Strategy(
        PlanOptions(policy="fixed", draft_length=GUESSES, ahead=0, worker_draft=0),
        rationed=False,
        lookup=False,
    ),
}
"""Ours, and what it is compared with."""
LOSS = 1.02
"""Of the best other one's seconds."""
CPU, ACCELERATOR = "this processor", "modelled accelerator"


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell came to.

    Attributes:
        worker: `CPU` or `ACCELERATOR`.
        sessions: at the worker.
        target_ms: that a forward of the target takes for one token of one session.
        rtt_ms: round trip of the link.
        seconds: per answer, by way.
    """

    worker: str
    sessions: int
    target_ms: float
    rtt_ms: float
    seconds: Mapping[str, float]

    @property
    def rival(self) -> str:
        """The best of the others."""
        return min((name for name in self.seconds if name != DEFAULT), key=self.seconds.__getitem__)

    @property
    def ratio(self) -> float:
        """Ours over it; below 1 is a win."""
        return self.seconds[DEFAULT] / self.seconds[self.rival]


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells that are wanted.

    Attributes:
        delays_ms: of forwards of this processor's target, on top.
        weights_ms: that the accelerator reads the target's weights for.
        rtts_ms: round trips.
        sessions: at the worker.
        texts: of a crowd that count, at least.
        seed: of all chance.
    """

    delays_ms: Sequence[float]
    weights_ms: Sequence[float]
    rtts_ms: Sequence[float]
    sessions: Sequence[int]
    texts: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A cell to simulate."""

    worker: str
    sessions: int
    texts: int
    places: Mapping[str, Place]


def cells(grid: Grid, recording: Recording, times: Measured, jobs: int = 1) -> Iterator[Cell]:
    """All of a grid, one worker and number of sessions after the other.

    Args:
        grid: of it.
        recording: the texts.
        times: of this processor.
        jobs: processes that simulate.

    Raises:
        FlexSpecError: a text is not the recorded one.
    """
    workers: Mapping[str, Sequence[Times]] = {
        CPU: [msgspec.structs.replace(times, delay=delay) for delay in grid.delays_ms],
        ACCELERATOR: [accelerator(weights) for weights in grid.weights_ms],
    }
    wanted = [
        _Wanted(
            worker,
            sessions,
            grid.texts,
            {name: Place(recording, way, target, rtt, grid.seed, reads=True) for name, way in WAYS.items()},
        )
        for worker, targets in workers.items()
        for sessions, target, rtt in product(grid.sessions, targets, grid.rtts_ms)
    ]
    if jobs == 1:
        yield from map(_cell, wanted)
        return
    with pool(jobs) as processes:
        yield from processes.map(_cell, wanted)


def _cell(one: _Wanted) -> Cell:
    place = next(iter(one.places.values()))
    seconds = {name: _seconds(place, one.sessions, one.texts) for name, place in one.places.items()}
    target_ms = place.times.forward(TargetForward(1, 1))
    return Cell(one.worker, one.sessions, target_ms, place.rtt_ms, seconds)


def accelerator(weights_ms: float) -> Modelled:
    """One that reads a target's weights in so many milliseconds; rows, keys and values cost in proportion."""
    usual = Accelerator()
    larger = weights_ms / usual.weights
    return Modelled(Accelerator(weights_ms, larger * usual.row, larger * usual.session, usual.draft))


def _seconds(place: Place, sessions: int, texts: int) -> float:
    runs = VirtualCrowd(place).closed(sessions, texts_each(sessions, 1, texts))
    problems = {run.problem for run in runs if run.problem}
    if problems:
        raise FlexSpecError(f"simulated texts are wrong: {'; '.join(sorted(problems))}")
    return fmean(run.seconds for run in runs)
