"""How a training went: a line for every fit, and their picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import util
from pathlib import Path

from flexspec_mq.daemon.files import whole

COLUMNS = ("episodes", "rows", "training", "held_out", "best_single")
"""Episodes and rows so far; then mean excess of seconds over the best action in hindsight, as a share: in training,
and on held-out episodes of the network and of the best single one."""
Line = dict[str, float]


def write_history(path: Path, lines: Sequence[Line]) -> None:
    """Replace the file."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: f"{line[name]:.6g}" for name in COLUMNS} for line in lines)


def can_draw() -> bool:
    """Whether the library that draws is installed (extra ``train``)."""
    return util.find_spec("matplotlib") is not None


def draw(lines: Sequence[Line], out: Path) -> None:
    """Draw a history; replaces the ``.svg`` file. Needs `can_draw`."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        episodes = [line["episodes"] for line in lines]
        for name, label in (
            ("held_out", "network"),
            ("best_single", "best single action"),
        ):
            axes.plot(episodes, [100 * line[name] for line in lines], marker="o", markersize=3, label=label)
        axes.set(xlabel="episodes", ylabel="seconds beyond the best in hindsight, %", ylim=(0, None))
        axes.set_title("Held-out episodes")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        with whole(out) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})
