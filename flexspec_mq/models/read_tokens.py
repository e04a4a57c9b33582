"""Tokens of a session's KV cache, with roll-back by length."""

from collections.abc import Sequence


class ReadTokens:
    """The tokens that a model has read in one session; the memory behind them is a subclass's.

    Attributes:
        tokens: their ids, in order.
        capacity: tokens that the memory has room for.
    """

    capacity: int

    def __init__(self) -> None:
        self.tokens: list[int] = []

    @property
    def length(self) -> int:
        """How many tokens are held."""
        return len(self.tokens)

    def roll_back(self, length: int) -> None:
        """Forget the tokens from position `length` on."""
        del self.tokens[length:]

    def common(self, wanted: Sequence[int]) -> int:
        """Length of the longest common prefix with `wanted`."""
        common = min(len(self.tokens), len(wanted))
        if self.tokens[:common] != list(wanted[:common]):
            common = next(i for i in range(common) if self.tokens[i] != wanted[i])
        return common

    def match(self, wanted: Sequence[int]) -> int:
        """Roll back to the longest common prefix with `wanted` and return its length."""
        common = self.common(wanted)
        self.roll_back(common)
        return common
