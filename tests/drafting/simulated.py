"""A drafter without weights, for tests of all that is around one."""

from collections.abc import Callable, Sequence

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken


class SimulatedDrafter:
    """A `Drafter` over a function, that takes no time.

    Args:
        propose: the token after a context, by the session's seed.
        longest: context that it drafts for.
    """

    def __init__(self, propose: Callable[[int, Sequence[int]], int], longest: int) -> None:
        self._propose = propose
        self._longest = longest

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._longest

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Draft a token for each."""
        return [(DraftToken(self._propose(one.identity.sampling.seed, one.context)),) for one in wanted]

    def free(self, session: int) -> None:
        """There is nothing to forget."""
