"""The history of a training as a picture: loss beside acceptance, over time."""

from __future__ import annotations

import math
from importlib import util
from typing import TYPE_CHECKING

from flexspec_mq.training.history import read_lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes


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
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _loss(left, lines)
        _acceptance(right, lines)
        part = out.with_name(f".{out.name}.part")
        figure.savefig(part, format="svg", metadata={"Date": None})
        part.replace(out)


def _loss(axes: Axes, lines: Sequence[dict[str, float]]) -> None:
    minutes, values = _series(lines, "kl")
    axes.plot(minutes, values, color="tab:blue")
    axes.set(title="Loss in training", xlabel="minutes", ylabel="KL(target ‖ draft), nats per position")
    if values and min(values) > 0:  # over a sampled LM head the estimate may fall below 0
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("{x:.2g}")
        axes.tick_params(axis="y", which="minor", labelsize=8)
    axes.grid(visible=True, which="both", alpha=0.3)


def _acceptance(axes: Axes, lines: Sequence[dict[str, float]]) -> None:
    axes.plot(*_series(lines, "overlap"), color="tab:blue", alpha=0.5, label="overlap Σ min(p, q), training")
    held_out = (
        ("held_out_overlap", "overlap, held-out", "tab:blue", "o"),
        ("held_out_match", "same most likely token, held-out", "tab:orange", "s"),
    )
    for name, label, color, marker in held_out:
        axes.plot(*_series(lines, name), color=color, marker=marker, markersize=4, label=label)
    axes.set(title="Acceptance", xlabel="minutes", ylabel="share of positions", ylim=(0, 1))
    axes.grid(visible=True, alpha=0.3)
    rounds = [line["held_out_tokens_per_round"] for line in lines]
    known = [value for value in rounds if not math.isnan(value)]
    if known:
        title = f"tokens per round at T = 0, held-out: {known[-1]:.2f}"
        axes.legend(loc="upper left", title=title, fontsize=8, title_fontsize=8)
    else:
        axes.legend(loc="upper left", fontsize=8)


def _series(lines: Sequence[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Minutes and values, where there are any."""
    points = [(line["seconds"] / 60, line[name]) for line in lines if not math.isnan(line[name])]
    return [minutes for minutes, _ in points], [value for _, value in points]
