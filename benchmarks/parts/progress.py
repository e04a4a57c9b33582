"""Telling people how far things are; without any of the models' libraries."""

from __future__ import annotations

import sys
import time


class Progress:
    """Says how many texts are done, at most every ten seconds.

    Args:
        what: is done to them.
        total: how many.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._began = self._said = time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._said > 10 or self._done == self._total:
            self._said = now
            say(f"{self._what}: {self._done} of {self._total} texts, {now - self._began:.0f} s")


def say(text: str) -> None:
    """Tell people how far things are."""
    print(text, file=sys.stderr, flush=True)
