"""Drafts of texts with grammars: what a grammar forces takes no model, and nothing is drafted that it forbids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken, PricedDrafter
from flexspec_mq.errors import GrammarError
from schemas.messages import MAX_DRAFT_TOKENS

if TYPE_CHECKING:
    from flexspec_mq.grammar.matcher import Matcher


class AllowedTokens:
    """Tokens that the grammar of a text allows behind a context.

    Args:
        matcher: follows the text.
        text: generated tokens of the context.

    Attributes:
        mask: ids that may come next.

    Raises:
        GrammarError: the text cannot be followed.
    """

    def __init__(self, matcher: Matcher, text: Sequence[int]) -> None:
        self._matcher, self._text = matcher, text
        (self.mask,) = matcher.masks(text, ())

    def first(self, draft: Sequence[DraftToken]) -> Sequence[DraftToken]:
        """The beginning of a draft that is allowed, as far as that can be told."""
        try:
            return draft[: self._matcher.valid(self._text, [each.token for each in draft])]
        except GrammarError:
            return ()


class GrammarDrafter:
    """A `Drafter` that gives the tokens that grammars force, and asks another one for those behind them.

    Sessions whose next tokens are forced are answered first, alone, and the others are asked again at once.

    Args:
        drafter: drafts what the `allowed` of a request says, if it has that.
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
            matcher, text = self._matcher(request), request.context[request.prompt_length :]
            try:
                if forced := matcher.forced(text, MAX_DRAFT_TOKENS):
                    drafted[place] = tuple(DraftToken(token, 1.0, "grammar") for token in forced)
                else:
                    asked[place] = replace(request, allowed=AllowedTokens(matcher, text))
            except GrammarError:  # the worker says what is wrong
                drafted[place] = ()
        if len(asked) == len(wanted):
            for place, proposals in zip(asked, self._drafter.draft(list(asked.values())), strict=True):
                drafted[place] = proposals
        return drafted

    def unread(self, request: DraftRequest) -> int:
        """Tokens of the context that the other has to read before it can propose the next one."""
        return self._drafter.unread(request)

    def lookups(self, wanted: Sequence[DraftRequest]) -> list[Sequence[DraftToken]]:
        """Lookups of the other, as far as grammars allow them."""
        found = []
        for request, lookups in zip(wanted, self._drafter.lookups(wanted), strict=True):
            try:
                text = request.context[request.prompt_length :]
                free = request.grammar is None or not lookups
                found.append(lookups if free else AllowedTokens(self._matcher(request), text).first(lookups))
            except GrammarError:
                found.append(())
        return found

    def free(self, session: int) -> None:
        """Forget a session; it need not be known."""
        self._matchers.pop(session, None)
        self._drafter.free(session)

    def _matcher(self, request: DraftRequest) -> Matcher:
        matcher = self._matchers.get(request.session)
        if matcher is None:
            matcher = self._matchers[request.session] = request.grammar.matcher()
        return matcher
