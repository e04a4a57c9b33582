"""What something takes where nothing else is done beside it: a low quantile that follows changes."""

from __future__ import annotations

_DOWN, _UP = 0.5, 0.05
"""How far the estimate goes to a sample below it, and to one above: it stays where one in eleven is lower."""


class Low:
    """An expectile of samples near their lowest.

    Attributes:
        value: None before a sample.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float | None = None

    def saw(self, sample: float) -> None:
        """Take a sample."""
        before = self.value
        if before is None:
            self.value = sample
        else:
            self.value = before + (sample - before) * (_DOWN if sample < before else _UP)
