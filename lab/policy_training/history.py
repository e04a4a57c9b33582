"""How a training went: a line for every fit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
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
