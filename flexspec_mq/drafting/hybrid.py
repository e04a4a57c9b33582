"""A draft model and lookups together: for each token whichever is expected to win."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.drafting.confidence_fusion import better
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken, PricedDrafter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.drafting.prompt_lookup_drafter import PromptLookupDrafter

_COST = 0.1
"""Tokens that a forward of the draft costs, while nobody has measured it: ten tokens a second, 10 ms."""
_STRENGTH = 0.5
"""Mean confidence of the draft where nothing is found, to begin with."""
_SMOOTHING = 1 / 64
_FADES = 2.5
"""A forward beside a lookup of confidence c adds (mean confidence of the draft) · (1 − c)^2.5 to the confidence:
measured as 0.30, 0.14, 0.07, 0.03, 0.02 and 0.00 at c = 0.2, 0.4, 0.5, 0.7, 0.8 and 0.9, with a mean of 0.57."""


class HybridDrafter:
    """A `Drafter` that asks the model only where that pays.

    A lookup costs no time. A forward of the model raises the probability of the next token, and with it of all that
    rides on it; it is run iff that is worth more than the tokens which the session could get in the same time. So a
    whole batch comes from lookup where the text repeats itself, and any batch may turn to lookup and back at each
    token. The model reads what it did not draft when it is next asked, in one forward.

    Sessions whose next tokens are found wait for no forward: they are answered first, alone, and the others are asked
    again at once.

    Args:
        model: the draft model.
        lookup: drafter by lookup for the same sessions.
    """

    def __init__(self, model: PricedDrafter, lookup: PromptLookupDrafter) -> None:
        self._model = model
        self._lookup = lookup
        self._strength = _STRENGTH

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return self._model.fits(context) or self._lookup.fits(context)

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Lookups of those that have found enough; if there are none, one forward of the model."""
        found: list[Drafted] = [None] * len(wanted)
        beside: list[DraftToken | None] = [None] * len(wanted)
        asked: list[int] = []
        for place, one in enumerate(wanted):
            session, pending = self._lookup.session(one)
            run = session.run(one, pending)
            if self._model.fits(one.context):
                beside[place] = run[0] if run else session.propose(pending)
                run = run[: self._unaided(one, run)]
                if not run:
                    asked.append(place)
                    continue
            found[place] = run
        if len(asked) == len(wanted):
            for place, proposals in zip(asked, self._model.draft(wanted), strict=True):
                found[place] = proposals and (self._chosen(proposals[0], beside[place]),)
        return found

    def unread(self, one: DraftRequest) -> int:
        """Tokens of the context that the model has to read before it can propose the next one."""
        return self._model.unread(one)

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """Lookup of each."""
        return self._lookup.lookups(wanted)

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        self._model.free(session)
        self._lookup.free(session)

    def _unaided(self, one: DraftRequest, run: Sequence[DraftToken]) -> int:
        """How many tokens of the run come before the first one that a forward of the model is worth."""
        cost = one.opportunity_cost or _COST
        riding: list[float] = []  # tokens expected after each of them
        after = 0.0
        for proposal in reversed(run):
            riding.append(after)
            after = proposal.confidence * (1 + after)
        together = one.joint_acceptance
        for place, proposal in enumerate(run):
            gain = self._strength * (1 - proposal.confidence) ** _FADES
            if together * gain * (1 + riding[-1 - place]) > cost:
                return place
            together *= proposal.confidence
        return len(run)

    def _chosen(self, proposal: DraftToken, beside: DraftToken | None) -> DraftToken:
        if beside is None:
            self._strength += (proposal.confidence - self._strength) * _SMOOTHING
        return better(proposal, beside)
