"""How often a text's own past tells its next token: acceptance of lookups by support, match length and temperature.

Reads text that a target wrote (``flexspec draft collect``, or any file that ``flexspec draft train`` takes), looks up
each token of the answers as an edge would, and fits the prior of `flexspec_mq.drafting.prompt_lookup_confidence`
anew. No model runs.
"""

from __future__ import annotations

import math
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.prompt_lookup import Found, Lookup, Support
from flexspec_mq.drafting.prompt_lookup_confidence import prior
from flexspec_mq.errors import UsageError
from flexspec_mq.models.draft.confidence import sigmoid
from lab.benchmarks._common import finish, parser, table
from training.draft.calibrate import newton
from training.draft.rows import TextRows, load_rows

QUICK_ROWS = 200
LENGTHS = (1, 2, 3, 4, 6, 9, 13, 20, 32)
"""Where the table's columns of match lengths begin."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One lookup, and whether the target wrote what was found."""

    row: int
    temperature: float
    found: Found
    right: bool


def build_parser() -> ArgumentParser:
    """The command's flags."""
    made = parser(__doc__ or "")
    made.add_argument("--text", type=Path, help="text that a target wrote, .npz")
    made.add_argument("--every", type=int, default=4, help="use one row of so many")
    return made


def outcomes(text: TextRows, rows: Sequence[int]) -> tuple[list[Outcome], int]:
    """All lookups of the answers of some rows, and how many tokens these have."""
    found: list[Outcome] = []
    tokens = 0
    for row in rows:
        ids = text.row(row).tolist()
        begin = int(text.prompt_len[row])
        lookup = Lookup()
        lookup.extend(ids[:begin])
        for token in ids[begin:]:
            one = lookup.find()
            if one is not None:
                found.append(Outcome(row, float(text.temperature[row]), one, one.token == token))
            lookup.extend((token,))
        tokens += len(ids) - begin
    return found, tokens


def fitted(found: Sequence[Outcome]) -> dict[Support, tuple[float, float, float]]:
    """The prior, fitted anew: see `flexspec_mq.drafting.prompt_lookup_confidence.PRIOR`."""
    made = {}
    for support in Support:
        mine = [one for one in found if one.found.support is support]
        right = np.array([one.right for one in mine], dtype=np.float64)
        if mine:
            made[support] = tuple(map(float, newton(_basis(mine), right, 0.01)))
    return {support: (one[0], one[1], one[2]) for support, one in made.items()}


def log_loss(found: Sequence[Outcome], likely: Sequence[float]) -> float:
    """Mean of minus the natural logarithm of the probability that was given to what happened."""
    return -sum(math.log(p if one.right else 1 - p) for one, p in zip(found, likely, strict=True)) / len(
        found
    )


def shares(found: Sequence[Outcome]) -> list[list[Any]]:
    """Rows of the table: per support and temperature the share of right ones, by match length."""
    rows: list[list[Any]] = []
    for support in Support:
        for temperature in sorted({one.temperature for one in found}):
            mine = [one for one in found if one.found.support is support and one.temperature == temperature]
            cells: list[float | None] = []
            for low, high in zip(LENGTHS, (*LENGTHS[1:], math.inf), strict=True):
                those = [one.right for one in mine if low <= one.found.length < high]
                cells.append(sum(those) / len(those) if those else None)
            if mine:
                rows.append([f"{support.value}, T = {temperature:.2g}", len(mine), *cells])
    return rows


def measure(options: Namespace) -> int:
    """Measure and print."""
    if options.text is None:
        raise UsageError("there is nothing to look into", hint="--text names a file that a target wrote")
    if options.every < 1:
        raise UsageError(f"--every {options.every} is less than 1")
    text = load_rows(options.text)
    rows = list(range(0, len(text), options.every))
    rows = rows[: QUICK_ROWS if options.quick else None]
    began = time.perf_counter()
    found, tokens = outcomes(text, rows)
    took = time.perf_counter() - began
    if not found:
        raise UsageError(f"{options.text} repeats nothing", hint="give more text")
    middle = len(rows) // 2
    first = [one for one in found if one.row < rows[middle]]
    second = [one for one in found if one.row >= rows[middle]]
    print(table(("support", "lookups", *map(str, LENGTHS)), shares(found)))
    made = fitted(found)
    unseen = fitted(first)
    losses = {
        "shipped prior": log_loss(second, [prior(one.found, one.temperature) for one in second]),
        "fitted to the first half": log_loss(second, [_likely(unseen, one) for one in second]),
    }
    print()
    print(table(("prior", "constant", "length", "temperature"), [(one.value, *made[one]) for one in made]))
    print(f"\n{1e6 * took / max(1, tokens):.1f} us a token; log loss on the second half: {losses}")
    results = {
        "rows": len(rows),
        "tokens": tokens,
        "lookups": len(found),
        "right": sum(one.right for one in found),
        "microseconds_per_token": 1e6 * took / max(1, tokens),
        "prior": {support.value: one for support, one in made.items()},
        "log_loss": losses,
    }
    finish("lookup", results, quick=options.quick)
    return 0


def _basis(found: Sequence[Outcome]) -> Floats:
    return np.array([(1.0, math.log(one.found.length), one.temperature) for one in found])


def _likely(made: dict[Support, tuple[float, float, float]], one: Outcome) -> float:
    weights = made.get(one.found.support, (0.0, 0.0, 0.0))
    return float(sigmoid(_basis([one]) @ np.array(weights))[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: measure(build_parser().parse_args(arguments)), argv)


if __name__ == "__main__":
    sys.exit(main())
