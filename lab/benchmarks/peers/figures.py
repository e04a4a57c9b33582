"""What the times of all engines say: a table, each engine's share of the memory's speed, and the bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.benchmarks._common import percentile, table

ROWS = (1, 5, 9)
"""Tokens of one session: one that is asked for, and drafts of four and eight with it."""
MOST = 16
"""Sessions in one batch."""
PREFILL = 512

ONE, FIVE, NINE = (f"1 x {rows}" for rows in ROWS)
MANY, MANY_FIVE = f"{MOST} x 1", f"{MOST} x 5"
READ = f"prefill of {PREFILL}"
CASES = (ONE, FIVE, NINE, MANY, MANY_FIVE, READ)


@dataclass(slots=True)
class Measured:
    """One engine.

    Attributes:
        weight_bytes: of the matrices that one token needs.
        agreement: share of a text's positions at which it finds the same id most likely as ours does.
        times: milliseconds by case, one a turn; a case that it cannot do is absent.
        said: why it, or a case, was not measured.
    """

    weight_bytes: int = 0
    agreement: float | None = None
    times: dict[str, list[float]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def ms(self, case: str) -> float | None:
        """Median."""
        return percentile(self.times[case], 0.5) if self.times.get(case) else None

    @property
    def read_rate(self) -> float | None:
        """Tokens per second of a prompt."""
        spent = self.ms(READ)
        return None if spent is None else 1e3 * PREFILL / spent

    def share(self, speed: float) -> float | None:
        """Bytes of weights per second at one token, over `speed` in GB per second."""
        spent = self.ms(ONE)
        return None if spent is None else self.weight_bytes / 1e6 / spent / speed


@dataclass(frozen=True, slots=True)
class Bar:
    """What we are held to.

    Attributes:
        name: for people.
        value: measured; None where something that it needs was not.
        bound: that it may not pass.
        least: the bound is a least one, not a most one.
    """

    name: str
    value: float | None
    bound: float
    least: bool = False

    @property
    def met(self) -> bool | None:
        """None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.least else self.value <= self.bound

    def facts(self) -> dict[str, Any]:
        """For the JSON object."""
        return {"value": self.value, "least" if self.least else "most": self.bound, "met": self.met}


def over(value: float | None, other: float | None) -> float | None:
    """Their quotient, where both were measured."""
    return None if value is None or other is None else value / other


def bars(ours: Measured, llama: Measured, openvino: Measured) -> list[Bar]:
    """Ours beside llama.cpp with the same weights in BF16, and OpenVINO's prefill."""
    return [
        Bar("one row, of llama.cpp BF16", over(ours.ms(ONE), llama.ms(ONE)), 1.5),
        Bar("five rows, of llama.cpp BF16", over(ours.ms(FIVE), llama.ms(FIVE)), 0.75),
        Bar("nine rows, of llama.cpp BF16", over(ours.ms(NINE), llama.ms(NINE)), 0.6),
        Bar(
            "prefill in tokens/s, of openvino bf16", over(ours.read_rate, openvino.read_rate), 0.8, least=True
        ),
        Bar(f"{MOST} sessions of one token, of one session", over(ours.ms(MANY), ours.ms(ONE)), 2.0),
    ]


def bar_table(judged: Sequence[Bar]) -> str:
    """For people."""
    words = {True: "yes", False: "no", None: "not measured"}
    return table(
        ("bar", "measured", "bound", "met"),
        [
            [bar.name, bar.value, f"{'at least' if bar.least else 'at most'} {bar.bound:g}", words[bar.met]]
            for bar in judged
        ],
    )


def agreement(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Share of positions with the same id.

    Raises:
        ValueError: of unlike length, or empty.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError("two texts of the same length are compared")
    return math.fsum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


HEADERS = (
    "engine",
    *(f"{name}, ms" for name in (ONE, FIVE, NINE, MANY, MANY_FIVE)),
    "prefill, tokens/s",
    "memory",
    "agrees",
)


def rows(found: Mapping[str, Measured], speed: float) -> list[list[Any]]:
    """A line for each engine that was measured."""
    return [
        [
            name,
            *(one.ms(case) for case in (ONE, FIVE, NINE, MANY, MANY_FIVE)),
            one.read_rate,
            one.share(speed),
            one.agreement,
        ]
        for name, one in found.items()
        if one.times
    ]


def ratio_rows(found: Mapping[str, Measured], ours: str) -> list[list[Any]]:
    """Our time over each other's; for a prompt, too, below 1 is faster."""
    mine = found[ours]
    return [
        [name, *(over(mine.ms(case), one.ms(case)) for case in CASES)]
        for name, one in found.items()
        if one.times and name != ours
    ]


def facts(one: Measured, speed: float) -> dict[str, Any]:
    """For the JSON object."""
    return {
        "weight_bytes": one.weight_bytes,
        "ms": {
            case: {"median": percentile(times, 0.5), "least": min(times), "p95": percentile(times, 0.95)}
            for case, times in one.times.items()
            if times
        },
        "prefill_tokens_per_second": one.read_rate,
        "share_of_memory": one.share(speed),
        "agreement": one.agreement,
        "not_measured": one.said,
    }
