"""The drafted tokens that no verdict has met yet: who drafted them, and how likely all of them survive."""

from __future__ import annotations

from flexspec_mq.protocol.edge.types import DraftToken


class PendingDraft:
    """Guesses in order. The stop rule lives here, so that all who draft follow the same one.

    The survival of the branch is the product of its confidences: the probability that the target takes all of it. A
    token that is added is of use only if it does.
    """

    __slots__ = ("_guesses",)

    def __init__(self) -> None:
        self._guesses: list[DraftToken] = []

    def __len__(self) -> int:
        return len(self._guesses)

    @property
    def guesses(self) -> tuple[DraftToken, ...]:
        """A copy."""
        return tuple(self._guesses)

    @property
    def survival(self) -> float:
        """Probability that the target takes all of the branch; 1 when it is empty."""
        found = 1.0
        for guess in self._guesses:
            found *= guess.confidence
        return found

    def admits(self, guess: DraftToken, stop: float) -> bool:
        """Whether the branch with this guess would survive with probability `stop` at least."""
        return stop <= 0.0 or self.survival * guess.confidence >= stop

    def add(self, guess: DraftToken) -> None:
        """The branch goes on with this."""
        self._guesses.append(guess)

    def decided(self, token: int) -> DraftToken | None:
        """The target wrote this token next; the guess that it met, None without one.

        A guess that was wrong takes all after it with it.
        """
        if not self._guesses:
            return None
        first = self._guesses.pop(0)
        if first.token != token:
            self._guesses = []
        return first

    def clear(self) -> None:
        """Forget all."""
        self._guesses = []
