"""Where each text stands in its grammar, on the engine's thread."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flexspec_mq.errors import GrammarError
from flexspec_mq.scheduling.token_bucket import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flexspec_mq.grammar.compiled import CompiledGrammars
    from flexspec_mq.grammar.matcher import CompiledGrammar, Mask, Matcher
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem

MOST_FORCED = 64
"""Forced tokens that one step adds to a text; the next step goes on with the others."""
_RATE, _BURST = 20.0, 100.0
"""Milliseconds of each second that following the grammars of one device may take beyond what ordinary ones do, and
those at once after a rest."""
_WORTH_ROWS = 16
"""Forced tokens behind a draft that get rows of the same forward. A longer run would cost too much where the draft is
rejected, and is committed without rows where it is not."""


class TextGrammars:
    """Position of each text in its grammar. Used on one thread at a time.

    Args:
        grammars: Compiled ones.
        clock: seconds.
    """

    def __init__(self, grammars: CompiledGrammars, clock: Callable[[], float] = time.monotonic) -> None:
        self._grammars = grammars
        self._clock = clock
        self._matchers: dict[SessionKey, Matcher] = {}
        self._buckets: dict[str, TokenBucket] = {}

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        self._matchers.pop(key, None)
        full = [device for device, bucket in self._buckets.items() if bucket.refill(self._clock()) >= _BURST]
        for device in full:
            del self._buckets[device]

    def compiled(self, item: WorkItem) -> CompiledGrammar | None:
        """Grammar of an item; None without one, or where it has been forgotten."""
        digest = item.identity.grammar
        return None if digest is None else self._grammars.get(digest)

    def masks(self, item: WorkItem, draft: Sequence[int]) -> list[Mask] | GrammarError:
        """Masks of the rows behind an item's context and each token of a draft, as far as that is allowed."""
        try:
            with self._matcher(item) as matcher:
                return matcher.masks(_text(item), draft)
        except GrammarError as error:
            return error

    def forced(self, item: WorkItem, after: Sequence[int], most: int) -> tuple[int, ...]:
        """Tokens behind an item's context and a draft where the grammar allows no others.

        Raises:
            GrammarError: the context is none of the grammar.
        """
        if item.identity.grammar is None or (after and after[-1] in item.identity.eos):
            return ()
        text = _text(item)
        with self._matcher(item) as matcher:
            if matcher.valid(text, after) < len(after):
                return ()
            left = item.identity.limit - len(text) - len(after)
            return matcher.forced((*text, *after), min(most, left))

    def behind_draft(self, item: WorkItem, draft: Sequence[int]) -> tuple[int, ...]:
        """The same as rows of the forward that verifies the draft; none if they are too many to be worth it."""
        try:
            forced = self.forced(item, draft, _WORTH_ROWS + 1)
        except GrammarError:
            return ()  # told with the masks
        left = item.identity.limit - item.start - 1 - len(draft)
        return forced[: max(0, left)] if len(forced) <= _WORTH_ROWS else ()

    @contextmanager
    def _matcher(self, item: WorkItem) -> Iterator[Matcher]:
        """A matcher that takes no more time than its device has left, and pays for what it takes."""
        matcher = self._matchers.get(item.key)
        if matcher is None:
            compiled = self.compiled(item)
            if compiled is None:
                raise GrammarError("")  # forgotten since its open: the edge opens again, with its source
            matcher = self._matchers[item.key] = compiled.matcher()
        device, now, before = item.key[0], self._clock(), matcher.ms
        bucket = self._buckets.setdefault(device, TokenBucket(device, _RATE, _BURST, _BURST, now))
        if (left := bucket.refill(now)) <= 0.0:
            raise GrammarError("the grammars of this device take too much time to follow")
        matcher.most = before + left
        try:
            yield matcher
        finally:
            bucket.charge(matcher.ms - before)


def _text(item: WorkItem) -> Sequence[int]:
    return item.context[item.prompt_length :]
