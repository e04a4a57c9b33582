"""Interface of drafters, apart from what runs a model, so that a node without it needs no torch."""

from collections.abc import Sequence
from typing import Protocol

from flexspec_mq.protocol.edge.types import DraftRequest, DraftToken

__all__ = ["DraftRequest", "DraftToken", "Drafted", "Drafter", "PricedDrafter"]

Drafted = Sequence[DraftToken] | None
"""A drafter's answer for a prefix: the next token, or more of them in order; nothing (an empty sequence) when it
has nothing to say there; None when it has nothing yet and wants to be asked again."""


class Drafter(Protocol):
    """Proposes tokens. Used on one thread of its own."""

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        ...

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Draft for each, in order; at most `most` tokens."""
        ...

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        ...


class PricedDrafter(Drafter, Protocol):
    """A drafter that can be asked beforehand whether it is worth asking."""

    def unread(self, request: DraftRequest) -> int:
        """Tokens of the context that a model has to read before it can propose the next one; 0 without a model."""
        ...

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """For each the tokens that take no forward of a model; none where nothing is found."""
        ...
