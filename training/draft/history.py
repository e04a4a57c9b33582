"""How a training went: a line every few steps and one at each measurement on held-out rows, and their picture."""

from __future__ import annotations

import csv
import math
from importlib import util
from typing import TYPE_CHECKING

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from training.draft.evaluate import ReplayFigures
    from training.draft.train import Progress

_STEP = ("step", "seconds", "positions", "learning_rate", "kl", "overlap")
_HELD_OUT = ("held_out_match", "held_out_overlap", "held_out_tokens_per_round")
COLUMNS = (*_STEP, *_HELD_OUT)
"""Optimizer steps and seconds so far, collecting included; positions trained on; learning rate of the last step;
running means of KL in nats and of Σ min(p, q) over training positions; `greedy_match`, `overlap` and
`tokens_per_round` on held-out rows, empty but where they were measured."""


class History:
    """The lines of one training, which goes on in the same file when it is resumed.

    Args:
        path: The ``.csv`` file; its folder is made.
        every: Steps from one line to the next.
        step: Where the training starts: later lines, of a run that ended before it could save, are taken out.

    Raises:
        ModelError: The file is something else.
    """

    def __init__(self, path: Path, every: int, step: int) -> None:
        self.path, self.every = path, every
        self._last = step
        lines = [line for line in read_lines(path) if line["step"] <= step] if step and path.exists() else []
        with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({name: _shown(value) for name, value in line.items()} for line in lines)

    def step(self, progress: Progress, rate: float) -> None:
        """Add a line if enough steps were done since the last one."""
        if progress.step >= self._last + self.every:
            self._add(progress, rate)

    def held_out(self, progress: Progress, rate: float, reached: ReplayFigures) -> None:
        """Add a line with what held-out rows gave."""
        self._add(progress, rate, reached.greedy_match, reached.overlap, reached.tokens_per_round)

    def _add(self, progress: Progress, rate: float, *held_out: float) -> None:
        self._last = progress.step
        known = (progress.step, progress.seconds, progress.tokens, rate, progress.kl, progress.overlap)
        line = {name: _shown(value) for name, value in zip(COLUMNS, (*known, *held_out), strict=False)}
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, COLUMNS).writerow(line)


def read_lines(path: Path) -> list[dict[str, float]]:
    """Lines of a history; what was not measured is NaN, and a last line that was cut off is left out.

    Raises:
        ModelError: The file cannot be read or is no history.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ModelError(
                    f"{path} is no history of a training", hint="remove it, or name another --out"
                )
            lines = list(reader)
        if lines and any(value is None for value in lines[-1].values()):
            lines.pop()
        return [{name: float(value) if value else math.nan for name, value in line.items()} for line in lines]
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read the history {path}: {error}") from error


def _shown(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"


def can_draw() -> bool:
    """Whether the library that draws is installed (extra ``train``)."""
    return util.find_spec("matplotlib") is not None


def draw(history: Path, out: Path) -> None:
    """Draw a history; replaces the picture atomically. Needs `can_draw`.

    Args:
        history: The ``.csv`` file.
        out: The ``.svg`` file.

    Raises:
        ModelError: The history cannot be read.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lines = read_lines(history)
    # Text stays text, and the same history gives the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(*_series(lines, "overlap"), alpha=0.5, label="overlap Σ min(p, q), training")
        axes.plot(*_series(lines, "held_out_overlap"), marker="o", label="overlap, held-out")
        axes.set(title="Acceptance", xlabel="minutes", ylabel="share of positions", ylim=(0, 1))
        axes.legend(loc="upper left")
        with whole(out) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})


def _series(lines: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Minutes and values, where there are any."""
    points = [(line["seconds"] / 60, line[name]) for line in lines if not math.isnan(line[name])]
    return [minutes for minutes, _ in points], [value for _, value in points]
