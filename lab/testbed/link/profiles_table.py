"""The profiles as a table for people, with the source of every figure."""

from __future__ import annotations

import msgspec

from flexspec_mq.demo.proxy import WAYS
from lab.testbed.link.profiles import Catalogue, Figure

_ARROWS = {"up": "a to b", "down": "b to a"}


def profiles_table(catalogue: Catalogue) -> list[str]:
    """Lines: a table with a number in brackets at each figure, then the sources under these numbers."""
    numbers = {key: number for number, key in enumerate(catalogue.sources, 1)}

    def cell(figure: Figure) -> str:
        return f"{figure.value:g} [{numbers[figure.source]}]"

    rows = [["profile", "state", "way", "delay ms", "jitter ms", "Mbit/s", "loss %", "queue kB"]]
    notes = []
    for name, profile in catalogue.profiles.items():
        for state in profile.states:
            for way in WAYS:
                figures = msgspec.structs.astuple(state.figures(way))
                rows.append([name, state.name, _ARROWS[way], *map(cell, figures)])
        notes.append(f"{name}: {profile.about}")
        if (out := profile.outages) is not None:
            bounds = (
                f"of {cell(out.shortest_s)} to {cell(out.longest_s)} s, one in {cell(out.gap_s)} s of service"
            )
            notes[-1] += f"; outages {bounds}, {out.ways if out.ways == 'both' else _ARROWS[out.ways]}"
        for state in profile.states:
            if state.dwell_s is not None:
                notes[-1] += f"; {state.name} for {cell(state.dwell_s)} s in the mean"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    sources = [f"[{numbers[key]}] {text}" for key, text in catalogue.sources.items()]
    about = "Delay is the least one-way delay; jitter is the mean of what comes on top."
    return [*lines, "", *notes, "", about, *sources]
