"""Results as plots: a panel for each figure, strategies below each other, a colour for each channel; SVG and PNG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
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
"""Figures that are drawn, on logarithmic scales."""
_SPREAD = 0.6
"""Between the first and the last channel of a strategy, of the distance between strategies."""

_WIDE = 50.0
"""Ratio of the ends of a scale above which only powers of ten are labelled."""


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of a channel, by strategy.

    Attributes:
        values: NaN where there is none, or none that a logarithmic scale could show.
        below, above: lengths of the intervals' two sides; 0 where there is none.
    """

    values: tuple[float, ...]
    below: tuple[float, ...]
    above: tuple[float, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return all(isnan(value) for value in self.values)


def series(channel: Mapping[str, Any], names: Sequence[str], figure: str) -> Series:
    """A figure of a channel's strategies, in the order of `names`."""
    ends = [_ends(channel["strategies"].get(name, {}).get(figure)) for name in names]
    return Series(
        tuple(value for value, _, _ in ends),
        tuple(0.0 if isnan(low) else value - low for value, low, _ in ends),
        tuple(0.0 if isnan(high) else high - value for value, _, high in ends),
    )


def draw(results: Mapping[str, Any], svg: Path, png: Path) -> None:
    """Draw all panels; replaces the files. The same results give the same SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    channels, names = results["channels"], results["run"]["strategies"]
    found = {
        title: [series(channel, names, figure) for channel in channels] for figure, title in PANELS.items()
    }
    panels = {title: lines for title, lines in found.items() if not all(one.empty for one in lines)}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "flexspec", "font.size": 9}):
        page = Figure(figsize=(3 * len(panels) + 1.5, 0.34 * len(names) + 1.5), layout="constrained")
        grid = page.subplots(1, len(panels), squeeze=False, sharey=True)
        for (title, lines), axes in zip(panels.items(), grid[0], strict=True):
            _panel(axes, title, lines, [channel["title"] for channel in channels], names)
        _mark_failed(grid[0, 0], channels, names)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
        with whole(svg) as part:
            page.savefig(part, format="svg", metadata={"Date": None})
        with whole(png) as part:
            page.savefig(part, format="png", dpi=120)


def _panel(
    axes: Axes, title: str, lines: Sequence[Series], channels: Sequence[str], names: Sequence[str]
) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    for number, (one, channel) in enumerate(zip(lines, channels, strict=True)):
        aside = _aside(number, len(channels))
        places = [place + aside for place in range(len(names))]
        axes.errorbar(
            one.values, places, xerr=[one.below, one.above], fmt="o", ms=4, elinewidth=1, label=channel
        )
    axes.set(title=title, xscale="log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _WIDE * low else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=True, alpha=0.3)
    axes.set_axisbelow(True)


def _mark_failed(axes: Axes, channels: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Say at the right edge, in the channel's colour, how many answers of a strategy are in no figure."""
    for number, channel in enumerate(channels):
        for name, count in Counter(one["strategy"] for one in channel["failed"]).items():
            axes.text(
                1.01,
                names.index(name) + _aside(number, len(channels)),
                f"{count} failed",
                transform=axes.get_yaxis_transform(),
                color=f"C{number}",
                fontsize="x-small",
                va="center",
            )


def _aside(channel: int, channels: int) -> float:
    """How far below a strategy's line a channel's points are."""
    return _SPREAD * ((channel + 0.5) / channels - 0.5)


def _ends(value: Any) -> tuple[float, float, float]:
    """Value, low and high; NaN for what there is not."""
    if not value:
        return nan, nan, nan
    if not isinstance(value, list):
        return float(value), nan, nan
    middle, low, high = (nan if end is None else float(end) for end in value)
    return (middle, low, high) if middle else (nan, nan, nan)
