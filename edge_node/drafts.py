"""What the node asks of a drafter: apart from that which runs a model, so that a node without it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.sampling.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Wanted:
    """One token to draft.

    Attributes:
        session: whose.
        context: prompt, committed tokens and drafted branch.
        params: the session's; the draft throws the same dice as the target.
    """

    session: int
    context: Sequence[int]
    params: SamplingParams


class Drafter(Protocol):
    """Guesses tokens. Used on one thread of its own."""

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        ...

    def draft(self, wanted: Sequence[Wanted]) -> list[int | None]:
        """One token for each, or None where it has nothing yet and wants to be asked again."""
        ...

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        ...
