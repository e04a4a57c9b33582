"""What the node asks of a drafter: apart from that which runs a model, so that a node without it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flexspec_mq.protocol.edge.types import DraftToken

if TYPE_CHECKING:
    from flexspec_mq.sampling.params import SamplingParams

__all__ = ["DraftToken", "Drafted", "Drafter", "Wanted"]

Drafted = Sequence[DraftToken] | None
"""What a drafter says about one prefix: the next token, or more of them in order; nothing (an empty sequence) when it
has nothing to say there; None when it has nothing yet and wants to be asked again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A prefix to draft the next token for, and maybe some more. `DraftRequest` says more of most fields.

    Attributes:
        session: whose.
        context: prompt, committed tokens and drafted branch.
        params: the session's; the draft throws the same dice as the target.
        committed: tokens of `context` that are committed, the prompt included; None means all.
        prompt: tokens of `context` that are the prompt.
        most: tokens that are of use, at least 1.
        survival: probability that the target takes all of the branch.
        stop: the survival below which a token is not wanted.
        price: tokens that the session would get in the time that one token takes the draft model.
    """

    session: int
    context: Sequence[int]
    params: SamplingParams
    committed: int | None = None
    prompt: int = 0
    most: int = 1
    survival: float = 1.0
    stop: float = 0.0
    price: float = 0.0


class Drafter(Protocol):
    """Guesses tokens. Used on one thread of its own."""

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        ...

    def draft(self, wanted: Sequence[Wanted]) -> list[Drafted]:
        """What to draft for each, in order; at most `most` tokens."""
        ...

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        ...
