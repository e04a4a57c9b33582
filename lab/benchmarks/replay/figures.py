"""What texts of many clients came to: rates, gaps, and how many clients are carried at a rate each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log
from typing import Any

import msgspec

from lab.benchmarks._common import percentile

SHARE = 0.9
"""Of the texts of a crowd that is carried at a rate: so many have at least that rate."""


class TextRun(msgspec.Struct, frozen=True):
    """One text of one client; times in seconds.

    Attributes:
        client: its number.
        began: when it was asked for, or was due to be.
        pieces: when tokens came, and how many.
        problem: why it is not what the target alone writes; empty if it is.
        drafted: tokens that its device drafted, of use or not.
        up, down: payload bytes; 0 where nothing is sent.
    """

    client: int
    began: float
    pieces: tuple[tuple[float, int], ...]
    problem: str = ""
    drafted: int = 0
    up: int = 0
    down: int = 0

    @property
    def tokens(self) -> int:
        """That came."""
        return sum(count for _, count in self.pieces)

    @property
    def seconds(self) -> float:
        """From the asking to the last piece."""
        return self.pieces[-1][0] - self.began if self.pieces else 0.0

    @property
    def rate(self) -> float:
        """Tokens per second, the wait for the first piece included."""
        return self.tokens / self.seconds if self.pieces else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between two pieces."""
        return [later[0] - earlier[0] for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]


def figures(runs: Sequence[TextRun]) -> dict[str, Any]:
    """Figures of the texts of one crowd, each client of which wrote one text after the other.

    Returns:
        ``texts``, ``wrong`` (not what the target writes, or not ended), ``problems``, ``rate`` (tokens per second
        that nine texts in ten have at least), ``rate_median``, ``tokens_per_s`` (of all clients together),
        ``gap_p99_ms``, ``first_ms`` (median wait for the first piece), and for each token ``drafted`` on devices and
        bytes ``up`` and ``down``.

    Raises:
        ValueError: no text.
    """
    by_client: dict[int, list[TextRun]] = {}
    for run in runs:
        by_client.setdefault(run.client, []).append(run)
    right = [run for run in runs if not run.problem]
    gaps = [gap for run in right for gap in run.gaps] or [0.0]
    tokens = max(1, sum(run.tokens for run in runs))
    return {
        "texts": len(runs),
        "wrong": len(runs) - len(right),
        "problems": sorted({run.problem for run in runs if run.problem}),
        "rate": carried_rate(runs),
        "rate_median": percentile([run.rate for run in runs], 0.5),
        "tokens_per_s": sum(
            sum(run.tokens for run in own) / max(1e-9, sum(run.seconds for run in own))
            for own in by_client.values()
        ),
        "gap_p99_ms": 1000 * percentile(gaps, 0.99),
        **{name: sum(getattr(run, name) for run in runs) / tokens for name in ("drafted", "up", "down")},
        "first_ms": 1000 * percentile([run.pieces[0][0] - run.began for run in right] or [0.0], 0.5),
    }


def carried_rate(runs: Sequence[TextRun]) -> float:
    """Tokens per second that a share `SHARE` of the texts have at least; a text that went wrong has none."""
    rates = sorted(0.0 if run.problem else run.rate for run in runs)
    return rates[min(len(rates) - 1, round((1 - SHARE) * len(rates)))]


def carried_clients(rates: Mapping[int, float], wanted: float) -> float:
    """Clients that are carried at a rate each, between two crowds that were measured on a line of their logarithms.

    Args:
        rates: by number of clients, the rate that they were carried at.
        wanted: tokens per second.

    Returns:
        0 where not even the smallest crowd was; the largest crowd where that was, as more may be.
    """
    counts = sorted(rates)
    enough = [count for count in counts if rates[count] >= wanted]
    if not enough:
        return 0.0
    last = enough[-1]
    if last == counts[-1]:
        return float(last)
    after = counts[counts.index(last) + 1]
    if rates[after] <= 0.0 or rates[last] <= rates[after]:
        return float(last)
    share = log(rates[last] / wanted) / log(rates[last] / rates[after])
    return exp(log(last) + share * log(after / last))


def best_other(carried: Mapping[str, float], ours: str) -> float | None:
    """Clients of our strategy over those of the best other one; None where none carries any.

    Args:
        carried: clients by strategy.
        ours: name of ours.
    """
    best = max(clients for name, clients in carried.items() if name != ours)
    return carried[ours] / best if best else None
