"""The presets as Markdown for ``docs/energy.md``; ``python -m flexspec_mq.energy.presets_table`` prints them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping

from flexspec_mq.energy.presets import Device, Figure, Presets, Radio, built_in, figures_of

_WIDTH = 120


def presets_table(presets: Presets) -> str:
    """A table of devices, one of radios, and the numbered sources that they refer to."""
    numbers = {key: number for number, key in enumerate(presets.sources, 1)}
    sources = [
        textwrap.fill(
            f"{number}. `{key}`: {presets.sources[key]}.",
            _WIDTH,
            subsequent_indent=" " * len(f"{number}. "),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for key, number in numbers.items()
    ]
    parts = (_table(presets.devices, numbers), _table(presets.radios, numbers), "\n".join(sources))
    return "\n\n".join(parts)


def _table(rows: Mapping[str, Device] | Mapping[str, Radio], numbers: Mapping[str, int]) -> str:
    names = list(figures_of(next(iter(rows.values()))))
    lines = [_row("", *names, ""), "|---" * (2 + len(names)) + "|"]
    for name, one in rows.items():
        cells = [_cell(figure, numbers) for figure in figures_of(one).values()]
        about = f"{one.about}; by {one.radio}" if isinstance(one, Device) else one.about
        lines.append(_row(f"`{name}`", *cells, about))
    return "\n".join(lines)


def _cell(figure: Figure, numbers: Mapping[str, int]) -> str:
    return f"{figure.value:g} [{numbers[figure.source]}]"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(presets_table(built_in()) + "\n")
