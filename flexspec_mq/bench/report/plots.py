"""Results as plots: strategies × channels, in SVG and PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

from flexspec_mq.daemon.files import whole

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

PANELS: Mapping[str, str] = {
    "mean_s": "seconds an answer",
    "median_first_s": "seconds to the first token",
    "bytes": "bytes an answer",
    "energy_j_per_100": "J for 100 tokens, modelled",
}
"""Figures that are drawn."""
_WIDTH = 0.86
"""Of all bars of a channel, of the distance between channels."""


@dataclass(frozen=True, slots=True)
class Bars:
    """One strategy's bars of a panel, by channel.

    Attributes:
        strategy: its name.
        values: NaN where there is none.
        below, above: lengths of the intervals' two sides; 0 where there is none.
    """

    strategy: str
    values: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]


def bars(channels: Sequence[Mapping[str, Any]], names: Sequence[str], figure: str) -> list[Bars]:
    """The bars of a panel, of strategies that have any; a 0 has none, as the scale is logarithmic."""
    found = []
    for name in names:
        ends = [_ends(channel["strategies"].get(name, {}).get(figure)) for channel in channels]
        values = tuple(value for value, _, _ in ends)
        if any(value == value for value in values):  # noqa: PLR0124  NaN differs from itself
            below = tuple(value - low if low == low else 0.0 for value, low, _ in ends)  # noqa: PLR0124
            above = tuple(high - value if high == high else 0.0 for value, _, high in ends)  # noqa: PLR0124
            found.append(Bars(name, values, below, above))
    return found


def draw(results: Mapping[str, Any], svg: Path, png: Path) -> None:
    """Draw all panels; replaces the files. The same results give the same SVG."""
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    channels, names = results["channels"], results["run"]["strategies"]
    panels = {title: found for figure, title in PANELS.items() if (found := bars(channels, names, figure))}
    colors = dict(zip(names, colormaps["tab20"].colors, strict=False))  # type: ignore[attr-defined]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 9}):
        figure = Figure(figsize=(11, 2.6 * len(panels) + 0.9), layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False)
        for (title, found), axes in zip(panels.items(), grid[:, 0], strict=True):
            _panel(axes, title, found, [channel["title"] for channel in channels], names, colors)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        with whole(svg) as part:
            figure.savefig(part, format="svg", metadata={"Date": None})
        with whole(png) as part:
            figure.savefig(part, format="png", dpi=120)


def _panel(
    axes: Axes,
    title: str,
    found: Sequence[Bars],
    channels: Sequence[str],
    names: Sequence[str],
    colors: Mapping[str, Any],
) -> None:
    width = _WIDTH / len(names)
    for one in found:
        left = (names.index(one.strategy) + 0.5) * width - _WIDTH / 2
        places = [number + left for number in range(len(channels))]
        axes.bar(
            places,
            one.values,
            0.9 * width,
            yerr=[one.below, one.above],
            label=one.strategy,
            color=colors.get(one.strategy, "gray"),
            error_kw={"elinewidth": 0.8},
        )
    axes.set(title=title, yscale="log", xlim=(-0.5, len(channels) - 0.5))
    axes.set_xticks(range(len(channels)), channels)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _ends(value: Any) -> tuple[float, float, float]:
    """Value, low and high; NaN for what there is not."""
    if value is None or value == 0:
        return nan, nan, nan
    if not isinstance(value, list):
        return float(value), nan, nan
    middle, low, high = (nan if end is None else float(end) for end in value)
    return (middle, low, high) if middle else (nan, nan, nan)
