"""What shares the next forward.

Items that are ready to decide all go. Prefixes that are still being read share a token budget, so that a long prompt
slows a step by a bounded amount: in equal parts, or, where these would be too small, some of them in each step, those
first that were served longest ago. So no session waits while another is served twice, as far as memory allows.

Where memory is short, room is given in the order in which work arrived: an item may cost the caches of later ones,
never of earlier ones. So the oldest item always gets on, and no two sessions can throw each other out for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloud_worker.engine.model_runner import Slice

if TYPE_CHECKING:
    from cloud_worker.engine.model_runner import Decided, Engine
    from cloud_worker.engine.prefill_budget import PrefillBudget
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem


_QUANTUM = 16
"""Tokens: smaller pieces of a prefix cost nearly as much as these."""


@dataclass(slots=True)
class Scheduler:
    """Items taken from the protocol machine and not yet decided.

    Attributes:
        prefill: tokens of unread prefixes that one forward may read.
        pace: says that anew for each forward instead, if there is one.
        pending: by session, in the order of arrival.
        writing: tokens that sessions which write feed into the newest forward; the others are read.
    """

    prefill: int = 128
    pace: PrefillBudget | None = None
    pending: dict[SessionKey, WorkItem] = field(default_factory=dict)
    writing: int = 0
    _served: dict[SessionKey, int] = field(default_factory=dict)
    _steps: int = 0

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self.pending[item.key] = item
        self._served[item.key] = self._steps

    def drop(self, key: SessionKey) -> None:
        """The session is gone: its item need not be computed."""
        self.pending.pop(key, None)
        self._served.pop(key, None)

    def compose(self, engine: Engine) -> list[Slice]:
        """Choose what shares the next forward, and make room for it.

        Raises:
            MemoryError: nothing can go on, as the oldest item alone has no room.
        """
        if not self.pending:
            return []
        self._steps += 1
        ready, reading = self._shares(engine)
        slices = self._with_room(engine, ready | reading)
        self.writing = sum(piece.most for piece in slices if piece.item.key in ready)
        if not slices:  # those whose turn it is have no room beside the oldest
            oldest = next(iter(self.pending.values()))
            share = min(engine.unread(oldest), max(2, self._budget(0)))
            slices = self._with_room(engine, {oldest.key: share})
        if not slices:
            edge, session = oldest.key
            raise MemoryError(f"no room for the keys and values of session {edge}/{session} alone")
        return slices

    def _with_room(self, engine: Engine, shares: dict[SessionKey, int]) -> list[Slice]:
        waiting = list(self.pending)
        slices = []
        for key, item in self.pending.items():
            most = shares.get(key, 0)
            if most and engine.make_room(item, most, waiting):
                slices.append(Slice(item, most))
                self._served[key] = self._steps
        return slices

    def _budget(self, writing: int) -> int:
        return self.prefill if self.pace is None else self.pace.budget(writing)

    def _shares(self, engine: Engine) -> tuple[dict[SessionKey, int], dict[SessionKey, int]]:
        """How many tokens each item may feed, memory aside: those that are ready, and those that are reading."""
        ready: dict[SessionKey, int] = {}
        unread: dict[SessionKey, int] = {}
        for key, item in self.pending.items():
            left = engine.unread(item)
            (ready if left - len(item.draft) <= 1 else unread)[key] = left
        budget = self._budget(sum(ready.values()))
        turns = sorted(unread, key=lambda key: self._served[key])
        return ready, _divide(budget, {key: unread[key] for key in turns})

    def settle(self, decided: list[Decided]) -> list[Decided]:
        """Remove what was decided; return it. An item that was dropped or replaced meanwhile does not count."""
        done = []
        for result in decided:
            if result.tokens and self.pending.get(result.item.key) is result.item:
                self.drop(result.item.key)
                done.append(result)
        return done


def _divide(budget: int, unread: dict[SessionKey, int]) -> dict[SessionKey, int]:
    """Equal shares of a budget, none below the quantum but the last one; what is left goes to the first.

    Args:
        budget: tokens.
        unread: how many tokens each can use, the first to be served first.
    """
    shares: dict[SessionKey, int] = {}
    left = budget
    for place, (key, most) in enumerate(unread.items()):
        # Two tokens are the least that makes progress on an unread prefix.
        if left < 2:
            break
        shares[key] = min(most, left, max(_QUANTUM, left // (len(unread) - place)))
        left -= shares[key]
    for key, share in shares.items():
        more = min(left, unread[key] - share)
        shares[key] += more
        left -= more
    return shares
