"""The profiles as a table for people, with the source of every figure."""

from __future__ import annotations

from flexspec_mq.link.profiles import WAYS, Catalogue, Figure, State, Way, WayFigures

_ARROWS = {"up": "a to b", "down": "b to a"}


def profiles_table(catalogue: Catalogue) -> list[str]:
    """Lines: a table with a number in brackets at each figure, then the sources under these numbers."""
    numbers = {key: number for number, key in enumerate(catalogue.sources, 1)}

    def cell(figure: Figure) -> str:
        return f"{figure.value:g} [{numbers[figure.source]}]"

    heads = ["profile", "state", "way", "delay ms", "jitter ms", "Mbit/s", "loss %", "queue kB"]
    rows = [heads]
    notes = []
    for name, profile in catalogue.profiles.items():
        for state in profile.states:
            rows += [[name, state.name, _ARROWS[way], *map(cell, _cells(state, way))] for way in WAYS]
        notes.append(f"{name}: {profile.about}")
        if (out := profile.outages) is not None:
            bounds = (
                f"of {cell(out.shortest_s)} to {cell(out.longest_s)} s, one in {cell(out.gap_s)} s of service"
            )
            notes[-1] += f"; outages {bounds}, {out.ways if out.ways == 'both' else _ARROWS[out.ways]}"
        for state in profile.states:
            if state.dwell_s is not None:
                notes[-1] += f"; {state.name} for {cell(state.dwell_s)} s in the mean"
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    sources = [f"[{numbers[key]}] {text}" for key, text in catalogue.sources.items()]
    return [
        *lines,
        "",
        *notes,
        "",
        "Delay is the least one-way delay; jitter is the mean of what comes on top.",
        *sources,
    ]


def _cells(state: State, way: Way) -> tuple[Figure, ...]:
    figures: WayFigures = state.figures(way)
    return figures.delay_ms, figures.jitter_ms, figures.rate_mbit, figures.loss_percent, figures.queue_kb
