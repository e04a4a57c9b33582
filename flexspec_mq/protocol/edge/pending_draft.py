"""The drafted tokens that no verdict has met yet: who drafted them, and how likely the target takes all of them."""

from __future__ import annotations

from collections.abc import Sequence

from flexspec_mq.protocol.edge.types import DraftToken


class PendingDraft:
    """Drafted tokens in order. The stop rule lives here, so that all who draft follow the same one.

    Attributes:
        tokens: ids that wait. To read.
        joint_acceptance: product of their confidences, the probability that the target takes all of them; 1 without
            any. A token that is added is of use only if it does.
    """

    __slots__ = ("joint_acceptance", "tokens")

    def __init__(self) -> None:
        self.tokens: list[DraftToken] = []
        self.joint_acceptance = 1.0

    def add(self, token: DraftToken, threshold: float) -> bool:
        """Go on with this token, if all of them are then taken with probability `threshold` at least."""
        together = self.joint_acceptance * token.confidence
        if threshold > 0.0 and together < threshold:
            return False
        self.tokens.append(token)
        self.joint_acceptance = together
        return True

    def meet(self, decided: Sequence[int]) -> tuple[list[DraftToken], bool]:
        """The target wrote these tokens next.

        Returns:
            The drafted tokens that they met, and whether the last of these was wrong. A wrong one takes all after it
            with it.
        """
        right, most = 0, min(len(self.tokens), len(decided))
        while right < most and self.tokens[right].token == decided[right]:
            right += 1
        wrong = right < most
        met = self.tokens[: right + wrong]
        self.tokens = [] if wrong else self.tokens[right:]
        self.joint_acceptance = 1.0
        for token in self.tokens:
            self.joint_acceptance *= token.confidence
        return met, wrong

    def clear(self) -> None:
        """Forget all."""
        self.tokens = []
        self.joint_acceptance = 1.0
