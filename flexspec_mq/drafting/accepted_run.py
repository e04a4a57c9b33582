"""How long a draft has been right: what its confidence in the next token depends on beside its logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AcceptedRun:
    """A session's proposals, and how many of them in a row the text took.

    A token that nobody proposed (the prompt's, a lookup's) neither adds to the run nor ends it. Tokens of
    the pending draft count as what they were drafted for, until the text turns out otherwise.
    """

    __slots__ = ("_length", "_proposals")

    def __init__(self) -> None:
        self._proposals: dict[int, int] = {}
        self._length = 0

    def proposed(self, position: int, token: int) -> None:
        """The draft would go on with this token.

        Args:
            position: tokens of prompt and text before it.
            token: id of the proposed token.
        """
        self._proposals[position] = token

    def keep(self, known: int) -> None:
        """Forget what was proposed after more than so many tokens: the text turned out otherwise there.

        Args:
            known: tokens at the front of the context that are what the draft has read.
        """
        self._proposals = {place: token for place, token in self._proposals.items() if place <= known}

    def length(self, context: Sequence[int], committed: int) -> int:
        """Proposals before the end of the context that were right, one after another.

        Args:
            context: prompt, committed tokens and pending draft.
            committed: how many of them are decided for good.
        """
        length = self._length
        for place, token in sorted(self._proposals.items()):
            if place >= len(context):
                break
            length = length + 1 if context[place] == token else 0
            if place < committed:
                self._length = length
                del self._proposals[place]
        return length
