"""Which client writes which text when: one after the other, or as they happen to arrive."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from math import ceil
from typing import TypeVar

T = TypeVar("T")

WARM_UP = 1
"""Texts of each client that come before those that count."""


def texts_each(clients: int, least: int, together: int) -> int:
    """How many texts of each client count: so many at least, and so many together."""
    return max(least, ceil(together / clients))


def order_of(texts: Sequence[T], seed: int, client: int) -> Iterator[T]:
    """The texts that a client asks for, for ever: all of them in one random order, which comes again."""
    rng = random.Random(f"{seed} {client}")
    mixed = list(texts)
    rng.shuffle(mixed)
    while True:
        yield from mixed


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """When texts arrive by a Poisson process, seconds.

    Args:
        rate: texts per second.
        count: how many.
        seed: of it.
    """
    rng = random.Random(f"{seed} arrivals")
    times, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times
