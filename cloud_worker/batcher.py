"""What shares the next forward.

Items that are ready to decide go first, all of them; what is left of the token budget goes to prefixes that are
still being read, those that have waited longest first. So a long prompt slows a step by a bounded amount.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloud_worker.engine import Slice

if TYPE_CHECKING:
    from cloud_worker.engine import Decided, Engine
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker import WorkItem


@dataclass(slots=True)
class Batcher:
    """Items taken from the protocol machine and not yet decided.

    Attributes:
        prefill: tokens of unread prefixes that one forward may read.
        pending: by session, in the order of arrival.
    """

    prefill: int = 128
    pending: dict[SessionKey, WorkItem] = field(default_factory=dict)

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self.pending[item.key] = item

    def drop(self, key: SessionKey) -> None:
        """The session is gone: its item need not be computed."""
        self.pending.pop(key, None)

    def compose(self, engine: Engine) -> list[Slice]:
        """Choose what shares the next forward."""
        slices: list[Slice] = []
        reading: list[tuple[WorkItem, int]] = []
        for item in self.pending.values():
            unread = engine.unread(item)
            if unread - len(item.draft) <= 1:
                slices.append(Slice(item, unread))
            else:
                reading.append((item, unread))
        budget = self.prefill
        for item, unread in reading:
            share = min(unread, budget)
            # Two tokens are the least that makes progress on an unread prefix.
            if share < 2:
                break
            slices.append(Slice(item, share))
            budget -= share
        return slices

    def settle(self, decided: list[Decided]) -> list[Decided]:
        """Remove what was decided; return it. An item that was dropped or replaced meanwhile does not count."""
        done = []
        for result in decided:
            if result.tokens and self.pending.get(result.item.key) is result.item:
                del self.pending[result.item.key]
                done.append(result)
        return done
