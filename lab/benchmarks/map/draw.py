"""The map as a picture: a panel for each worker and number of sessions, a colour for who is ahead; SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

from flexspec_mq.daemon.files import whole
from lab.bench.traditional.schemes import IDS
from lab.benchmarks.capacity.strategies import COLOCATED, STREAMING
from lab.benchmarks.map.cells import LOSS, Cell

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from lab.benchmarks.map.points import Point

_LETTERS = {STREAMING: "s", COLOCATED: "c", IDS: "t"}
_SCALE = 0.7, 1.3
"""Ratios with the darkest colours."""
_DARK = 0.2
"""Distance from 1 from which on a cell's colour is too dark for black letters."""


def draw(cells: Sequence[Cell], points: Sequence[Point], svg: Path, png: Path) -> None:
    """Draw all panels; replaces the files. The same cells give the same SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: dict[str, dict[int, list[Cell]]] = {}
    for cell in cells:
        panels.setdefault(cell.worker, {}).setdefault(cell.sessions, []).append(cell)
    columns = max(map(len, panels.values()))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 8}):
        page = Figure(figsize=(3.1 * columns + 1.2, 2.6 * len(panels) + 0.9), layout="constrained")
        grid = page.subplots(len(panels), columns, squeeze=False)
        image: AxesImage | None = None
        for (worker, found), row in zip(panels.items(), grid, strict=True):
            for (sessions, mine), axes in zip(found.items(), row, strict=True):
                here = [one for one in points if (one.cell.worker, one.cell.sessions) == (worker, sessions)]
                image = _panel(axes, mine, here)
                axes.set_title(f"{worker}, {sessions} session{'s' * (sessions > 1)}")
            row[0].set_ylabel("target, ms a token")
        for axes in grid[-1]:
            axes.set_xlabel("round trip, ms")
        if image is not None:
            bar = page.colorbar(image, ax=grid, shrink=0.7, extend="both")
            bar.set_label("default / best other, seconds an answer")
        page.suptitle(
            "Seconds an answer of the default, over those of the best of the others: streaming (s),\n"
            "a draft beside the target (c), traditional speculation with ids (t). Below 1 the default is ahead.\n"
            "Framed: a loss. Circles: measured, in the same colours.",
            fontsize=9,
        )
        with whole(svg) as part:
            page.savefig(part, format="svg", metadata={"Date": None})
        with whole(png) as part:
            page.savefig(part, format="png", dpi=110)


def _panel(axes: Axes, cells: Sequence[Cell], points: Sequence[Point]) -> AxesImage:
    from matplotlib.patches import Rectangle

    targets = sorted({cell.target_ms for cell in cells})
    rtts = sorted({cell.rtt_ms for cell in cells})
    values = [[0.0] * len(rtts) for _ in targets]
    for cell in cells:
        values[targets.index(cell.target_ms)][rtts.index(cell.rtt_ms)] = cell.ratio
    low, high = _SCALE
    image = axes.imshow(values, cmap="RdBu_r", vmin=low, vmax=high, origin="lower", aspect="auto")
    for cell in cells:
        x, y = rtts.index(cell.rtt_ms), targets.index(cell.target_ms)
        colour = "white" if abs(cell.ratio - 1.0) > _DARK else "black"
        axes.text(
            x,
            y,
            f"{cell.ratio:.2f} {_LETTERS[cell.rival]}",
            ha="center",
            va="center",
            color=colour,
            fontsize=7,
        )
        if cell.ratio > LOSS:
            axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, ec="black", lw=1.2))
    if points:
        axes.scatter(
            [place(rtts, one.cell.rtt_ms) for one in points],
            [place(targets, one.cell.target_ms) + 0.3 for one in points],
            c=[one.cell.ratio for one in points],
            cmap="RdBu_r",
            vmin=low,
            vmax=high,
            s=44,
            edgecolors="black",
            linewidths=0.9,
        )
    axes.set_xticks(range(len(rtts)), [f"{rtt:g}" for rtt in rtts])
    axes.set_yticks(range(len(targets)), [f"{target:.0f}" for target in targets])
    return image


def place(values: Sequence[float], value: float) -> float:
    """Where a value lies among the rising ones of an axis, by logarithms between two of them; its ends at most.

    Args:
        values: at places 0, 1 and so on; all above 0.
        value: any.
    """
    if value <= values[0]:
        return 0.0
    for after, top in enumerate(values[1:], 1):
        if value <= top:
            below = values[after - 1]
            return after - 1 + log(value / below) / log(top / below)
    return float(len(values) - 1)
