"""Drafts of texts with grammars: what a grammar forces takes no model, and nothing is drafted that it forbids."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken, PricedDrafter
from flexspec_mq.errors import GrammarError
from schemas.messages import MAX_DRAFT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.grammar.matcher import Matcher


class GrammarDrafter:
    """A `Drafter` that gives the tokens that grammars force, and asks another one for those behind them.

    Sessions whose next tokens are forced are answered first, alone, and the others are asked again at once.

    Args:
        drafter: drafts by the matcher of a request, if that has one.
    """

    def __init__(self, drafter: PricedDrafter) -> None:
        self._drafter = drafter
        self._matchers: dict[int, Matcher] = {}

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return self._drafter.fits(context)

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Forced tokens where there are any; if there are none, the other's."""
        drafted: list[Drafted] = [None] * len(wanted)
        asked: dict[int, DraftRequest] = {}
        for place, request in enumerate(wanted):
            if request.grammar is None:
                asked[place] = request
                continue
            matcher = self._matcher(request)
            try:
                forced = matcher.forced(request.context[request.prompt_length :], MAX_DRAFT_TOKENS)
                matcher.allowed()
            except GrammarError:  # the worker says what is wrong
                drafted[place] = ()
                continue
            if forced:
                drafted[place] = tuple(DraftToken(token, 1.0, "grammar") for token in forced)
            else:
                asked[place] = replace(request, matcher=matcher)
        if len(asked) == len(wanted):
            for place, proposals in zip(asked, self._drafter.draft(list(asked.values())), strict=True):
                drafted[place] = proposals
        return drafted

    def unread(self, request: DraftRequest) -> int:
        """Tokens of the context that the other has to read before it can propose the next one."""
        return self._drafter.unread(request)

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """Lookups of the other, as far as grammars allow them."""
        return self._drafter.lookups([self._with_matcher(request) for request in wanted])

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        self._matchers.pop(session, None)
        self._drafter.free(session)

    def _with_matcher(self, request: DraftRequest) -> DraftRequest:
        return request if request.grammar is None else replace(request, matcher=self._matcher(request))

    def _matcher(self, request: DraftRequest) -> Matcher:
        matcher = self._matchers.get(request.session)
        if matcher is None:
            matcher = self._matchers[request.session] = request.grammar.matcher()
        return matcher
