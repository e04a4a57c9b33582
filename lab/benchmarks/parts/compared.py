"""Several drafts on the same texts, with intervals by the bootstrap over questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flexspec_mq.errors import UsageError
from lab.bench.figures import bootstrap
from lab.bench.figures.bootstrap import Ends, Floats, shown
from lab.benchmarks._common import table

Sums = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
"""By draft and temperature: of each question tokens, rounds, drafted and accepted tokens."""
Compared = dict[str, dict[str, dict[str, Ends]]]
"""By draft, temperature and figure."""


def read_sums(path: Path | None) -> Sums:
    """Sums by question of another run, by draft and temperature; empty without a file.

    Raises:
        UsageError: the file is none of this benchmark.
    """
    if path is None:
        return {}
    try:
        sums: Sums = json.loads(path.read_text("utf-8").splitlines()[-1])["results"]["by_question"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(
            f"{path} has no figures to compare with: {error!r}",
            hint="give a file with what this benchmark printed",
        ) from error
    return sums


def compare(sums: Sums, beside: Sums, seed: int) -> Compared:
    """Each draft's figures by temperature, each a value and the ends of its interval.

    Args:
        sums: of all drafts.
        beside: of another version, on the same questions.
        seed: of the bootstrap.

    Returns:
        ``tokens_per_round``, ``acceptance``, ``of_first`` (tokens per round as a share of the first draft's) and
        ``kept`` (as a share of the same draft's beside).
    """
    first = next(iter(sums.values()))
    found: Compared = {}
    for name, by_temperature in sums.items():
        found[name] = {}
        for temperature, rows in by_temperature.items():
            mine = np.array(rows, dtype=np.float64)
            others = {"of_first": first[temperature]}
            there = beside.get(name, {}).get(temperature)
            if there is not None and len(there) == len(mine):
                others["kept"] = there
            ends = {
                "tokens_per_round": bootstrap.of_sums(mine, lambda s: s[:, 0] / s[:, 1], seed=seed),
                "acceptance": bootstrap.of_sums(mine, lambda s: s[:, 3] / np.maximum(1, s[:, 2]), seed=seed),
                **{
                    what: bootstrap.of_sums(
                        np.hstack((mine, np.array(rows, dtype=np.float64))), _share, seed=seed
                    )
                    for what, rows in others.items()
                },
            }
            found[name][temperature] = {what: interval.scaled(1.0) for what, interval in ends.items()}
    return found


def _share(sums: Floats) -> Floats:
    """Tokens per round of the first four columns, as a share of that of the last four."""
    return sums[:, 0] / sums[:, 1] / (sums[:, 4] / sums[:, 5])


def show_compared(compared: Compared, times: Mapping[str, float]) -> None:
    """Print one table for all drafts."""
    columns = ("tokens_per_round", "acceptance", "of_first", "kept")
    rows = [
        [
            name,
            temperature,
            *(shown(ends[one], ".3f") if one in ends else "" for one in columns),
            times.get(name),
        ]
        for name, by_temperature in compared.items()
        for temperature, ends in by_temperature.items()
    ]
    headers = ("draft", "T", "tokens/round", "accepted/drafted", "of the first draft", "kept", "ms/token")
    print(table(headers, rows))
    print()
