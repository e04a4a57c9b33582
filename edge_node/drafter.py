"""The drafter: guesses one token for each of several sessions in one forward. Knows token ids only.

Everything here runs on one thread, never on the event loop. It yields after every token, so that a rejection
reaches it within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flexspec_mq.models.packed import Feed, PackedModel, to_numpy
from flexspec_mq.sampling.choose import choose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.kv import SessionKV
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


class ModelDrafter:
    """A `Drafter` over a draft model.

    Args:
        model: the draft, packed.
        max_context: positions that it has; beyond them it has nothing to say.
        prefill: tokens of an unread prefix that one forward may read, so that a long prompt does not hold up
            the other sessions.
    """

    def __init__(self, model: PackedModel, *, max_context: int, prefill: int = 256) -> None:
        self._model = model
        self._max_context = max_context
        self._prefill = prefill
        self._sessions: dict[int, SessionKV] = {}

    def draft(self, wanted: Sequence[Wanted]) -> list[int | None]:
        """One forward over all that is wanted."""
        feeds = [self._feed(one) for one in wanted]
        logits = to_numpy(self._model.forward(feeds))
        tokens: list[int | None] = []
        row = 0
        for one, feed in zip(wanted, feeds, strict=True):
            if not feed.rows:
                tokens.append(None)
                continue
            tokens.append(choose(logits[row], one.params, len(one.context)))
            row += 1
        return tokens

    def free(self, session: int) -> None:
        """Forget a session."""
        self._sessions.pop(session, None)

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < self._max_context

    def _feed(self, one: Wanted) -> Feed:
        kv = self._sessions.get(one.session)
        if kv is None:
            kv = self._sessions[one.session] = self._model.new_kv()
        context = list(one.context)
        read = kv.match(context[:-1])
        feed = context[read : read + self._prefill]
        return Feed(kv, feed, int(read + len(feed) == len(context)))
