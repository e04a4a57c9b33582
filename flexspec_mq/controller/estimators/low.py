"""What something takes where seldom anything else is done beside it: a low expectile that follows changes."""

from __future__ import annotations

_DOWN, _UP = 0.2, 0.1
"""How far the estimate goes to a sample below it, and to one above: it comes to the expectile of a third."""


class Low:
    """An expectile of samples, below their mean (W. Newey and J. Powell, Asymmetric least squares, 1987).

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
