"""Edge nodes that are wanted, and the versions of the workers that they ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RATIONED, UNRATIONED = "base", "unrationed"
"""Versions of two workers of one target: one gives rows out by their worth, the other all that are asked for."""


@dataclass(frozen=True, slots=True)
class Node:
    """An edge node that is wanted.

    Attributes:
        flags: of ``flexspec-edge serve``.
        version: that they ask for.
    """

    flags: Sequence[str]
    version: str = RATIONED
