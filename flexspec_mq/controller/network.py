"""A network small enough to be computed without any library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from operator import mul

from flexspec_mq.controller.action_space import ACTIONS, FEATURES
from flexspec_mq.errors import ModelError

FORM = 1
"""Version of the file's format."""


@dataclass(frozen=True, slots=True)
class Network:
    """Features, one layer of rectified units, and a score for each action.

    Attributes:
        hidden: weights of each unit, its bias last; as many as there are features and one.
        out: weights of each unit in each score.
        bias: bias of each score.
    """

    hidden: tuple[tuple[float, ...], ...]
    out: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]

    def scores(self, numbers: Sequence[float]) -> list[float]:
        """Scores of all actions; the highest is best.

        Args:
            numbers: as `features` gives them.
        """
        row = (*numbers, 1.0)
        found = list(self.bias)
        for weights, shares in zip(self.hidden, self.out, strict=True):
            unit = sum(map(mul, weights, row))
            if unit > 0.0:
                found = [score + unit * share for score, share in zip(found, shares, strict=True)]
        return found


def read_network(text: str, name: str) -> Network:
    """A network as `flexspec policy train` writes it.

    Args:
        text: text of the file.
        name: name of the file, for errors.

    Raises:
        ModelError: it is none, or was trained for other features or actions.
    """
    try:
        found = json.loads(text)
        same = (
            found["form"] == FORM
            and tuple(found["features"]) == FEATURES
            and found["actions"] == [action.name for action in ACTIONS]
        )
        made = Network(
            tuple(tuple(map(float, row)) for row in found["hidden"]),
            tuple(tuple(map(float, row)) for row in found["out"]),
            tuple(map(float, found["bias"])),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{name} holds no weights of a policy: {error}") from error
    widths = {len(row) for row in made.hidden}, {len(row) for row in made.out}, {len(made.bias)}
    shapes = {len(FEATURES) + 1}, {len(ACTIONS)}, {len(ACTIONS)}
    if not same or widths != shapes or len(made.hidden) != len(made.out):
        raise ModelError(
            f"{name} was trained for other features or actions than this version has",
            hint="train it anew with flexspec policy train",
        )
    return made


@cache
def shipped_network() -> Network:
    """The one that comes with the package."""
    path = files("flexspec_mq.controller") / "weights" / "rl.json"
    return read_network(path.read_text("utf-8"), "rl.json")
