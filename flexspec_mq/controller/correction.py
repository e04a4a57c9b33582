"""What the closed form gets wrong, learned: a factor on the seconds that it expects of a choice.

The factor's logarithm is linear in what was observed and in how drafts are made: a matrix, with a row for each of
`TERMS` and a column for each of `FEATURES` and one more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import exp, log
from operator import mul

from flexspec_mq.controller.choices import Choice
from flexspec_mq.controller.features import FEATURES
from flexspec_mq.errors import ModelError

TERMS = ("worker", "nobody", "ahead", "both", "length", "window", "length, ahead")
_NONE = (0.0,) * (len(TERMS) - 2)
_FORM = 1
_MOST = 0.5
"""Of the logarithm: what was learned may not overrule the closed form altogether."""


def terms(choice: Choice, *, worker: bool = False) -> tuple[float, ...]:
    """What a factor depends on, besides what was observed.

    Args:
        choice: how drafts are made.
        worker: the worker may draft as well.
    """
    if not choice.length:
        return (1.0, 0.0, *_NONE) if worker else (0.0, 1.0, *_NONE)
    length = log(choice.length)
    if not choice.ahead:
        return 0.0, 0.0, 0.0, 0.0, length, 0.0, 0.0
    return 0.0, 0.0, 1.0, float(worker), length, log(choice.window), length


@dataclass(frozen=True, slots=True)
class Correction:
    """A learned matrix.

    Attributes:
        rows: one for each term.
    """

    rows: tuple[tuple[float, ...], ...]

    def weights(self, numbers: Sequence[float]) -> list[float]:
        """Of each term, given what `features` gives."""
        row = (*numbers, 1.0)
        return [sum(map(mul, weights, row)) for weights in self.rows]


def factor(weights: Sequence[float], of: Sequence[float]) -> float:
    """On the seconds of a choice.

    Args:
        weights: of each term, as observed.
        of: its terms.
    """
    return exp(min(max(sum(map(mul, weights, of)), -_MOST), _MOST))


def correction_text(correction: Correction) -> str:
    """What `read_correction` reads."""
    rows = [[float(f"{value:.4g}") for value in row] for row in correction.rows]
    return json.dumps(
        {"form": _FORM, "features": FEATURES, "terms": TERMS, "rows": rows}, separators=(",", ":")
    )


def read_correction(text: str, name: str) -> Correction:
    """A correction that `correction_text` wrote.

    Args:
        text: of the file.
        name: of it, for errors.

    Raises:
        ModelError: it is none, or was fitted to other features or terms.
    """
    try:
        found = json.loads(text)
        same = (
            found["form"] == _FORM and tuple(found["features"]) == FEATURES and tuple(found["terms"]) == TERMS
        )
        made = Correction(tuple(tuple(map(float, row)) for row in found["rows"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name} holds no weights of a predictor: {error}") from error
    if not same or len(made.rows) != len(TERMS) or {len(row) for row in made.rows} != {len(FEATURES) + 1}:
        raise ModelError(
            f"{name} was fitted to other features than this version has",
            hint="train it anew with flexspec policy train",
        )
    return made


@cache
def shipped_correction() -> Correction:
    """The one that comes with the package."""
    path = files("flexspec_mq.controller") / "weights" / "predictor.json"
    return read_correction(path.read_text("utf-8"), "predictor.json")
