"""Choice of the items that share the next forward.

Items that are ready to decide all go, but for those of a device that has more of them than others have, as far as
they would make these wait (`fair_shares`). Prefixes that are still being read share a token budget, so that a long
prompt slows a step by a bounded amount (`prefill_shares`).

Where memory is short, room is given in the order in which work arrived: an item may cost the caches of later ones,
never of earlier ones. So the oldest item always gets on, and no two sessions can throw each other out for ever.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.models.runner import ModelInput
from flexspec_mq.scheduling.fair_shares import Presence, sharing, weight
from flexspec_mq.scheduling.prefill_shares import DEVICE_PREFILL, DEVICE_PREFILL_SHARE, PrefillShares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloud_worker.engine.kv_cache import KVCache
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem
    from flexspec_mq.scheduling.prefill_budget import PrefillBudget


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An item's share of a forward.

    Attributes:
        model_input: Tokens to read, with keys and values; without rows while the prefix is not read to its end.
        draft: Tokens to verify: the edge's draft or its beginning, and the worker's own behind it.
    """

    item: WorkItem
    model_input: ModelInput
    draft: tuple[int, ...]


class Scheduler:
    """Items taken from the protocol machine and not yet decided, and the keys and values of their sessions.

    Args:
        caches: the keys and values, which nobody else changes.
        prefill: tokens of unread prefixes that one forward may read.
        budget: says that anew for each forward instead, if there is one.
        batch: sessions that one forward decides at most.
        device_prefill, device_prefill_share: see `PrefillShares`.
        clock: seconds.

    Attributes:
        heads: name of the model's head by version; versions that are not here are the base itself.
        pending: Items by session, in the order of arrival.
        writing: tokens that sessions which write feed into the newest forward; the others are read.
    """

    def __init__(
        self,
        caches: KVCache,
        *,
        prefill: int = 256,
        budget: PrefillBudget | None = None,
        batch: int = 2**31,
        device_prefill: int = DEVICE_PREFILL,
        device_prefill_share: float = DEVICE_PREFILL_SHARE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.caches = caches
        self._prefill_budget = budget
        self.heads: dict[str, str] = {}
        self.pending: dict[SessionKey, WorkItem] = {}
        self.writing = 0
        self._drafts: Mapping[SessionKey, tuple[int, ...]] = {}
        self._served: dict[SessionKey, int] = {}
        self._steps = 0
        self._batch = batch
        self._clock = clock
        self._reading = PrefillShares(prefill, budget, device=device_prefill, share=device_prefill_share)
        self._presence = Presence()
        # Unread tokens of the prefixes, while the next forward is made up.
        self._left: dict[SessionKey, int] = {}
        self._held_back: set[SessionKey] = set()
        self._weight = 0

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self.pending[item.key] = item
        self._served[item.key] = self._steps

    def drop(self, key: SessionKey) -> None:
        """The session's item need not be computed."""
        self.pending.pop(key, None)
        self._served.pop(key, None)

    def free(self, key: SessionKey) -> None:
        """Forget a session, its item, and its keys and values; it need not be known."""
        self.drop(key)
        self.caches.free(key)

    def release(self, key: SessionKey) -> None:
        """A session is over: drop its item, and keep its keys and values while there is room."""
        self.drop(key)
        self.caches.release(key)

    def _head(self, item: WorkItem) -> str:
        return self.heads.get(item.version, "")

    def _draft(self, item: WorkItem) -> tuple[int, ...]:
        return self._drafts.get(item.key, item.draft)

    def writing_items(self, ms: Callable[[int], float] = lambda _: 0.0) -> list[WorkItem]:
        """Pending items whose prefix is read and whose turn it is: the next forward decides them, if there is room.

        A forward that decides so many takes `ms` of them.
        """
        self._left = self._unread_prefixes()
        ready = [item for key, item in self.pending.items() if self._left[key] <= 1]
        beside = Counter(edge for (edge, _), left in self._left.items() if left > 1)
        now = self._clock()
        here = beside.keys() | {item.key[0] for item in ready}
        away = self._presence.since_others(here, now)
        self._presence.observe(here, now)
        keys = [item.key for item in ready]
        chosen = set(sharing(keys, ms, self._batch, beside=beside.keys(), away=away, turn=self._steps))
        self._held_back = {key for key in keys if key not in chosen}
        # Sessions of a device that is alone take turns, and each waits for the forwards of all others. Beside other
        # devices those that wait do not count: a device with many sessions must not end the others' drafts.
        self._weight = weight(chosen if len(here) > 1 else keys, beside)
        return [item for item in ready if item.key in chosen]

    @property
    def held_back(self) -> int:
        """Items that `writing_items` left to later forwards."""
        return len(self._held_back)

    @property
    def sharing(self) -> int:
        """Sessions for whose sake the next forward should be short, by `writing_items`."""
        return self._weight

    @property
    def slowed(self) -> int:
        """Tokens that the newest forward reads for devices which have had many read while others write."""
        return self._reading.slowed

    def reading_ms(self) -> float:
        """Milliseconds that reading prefixes is expected to add to the next forward; 0 where nobody measures it."""
        budget = self._prefill_budget
        if budget is None:
            return 0.0
        left = self._left.values()
        return budget.adds(sum(tokens <= 1 for tokens in left), sum(tokens for tokens in left if tokens > 1))

    def unread(self, item: WorkItem) -> int:
        """Tokens that the item would feed, its draft included."""
        return self._unread_prefix(item) + len(self._draft(item))

    def _unread_prefix(self, item: WorkItem) -> int:
        kv = self.caches.of_head(item.key, self._head(item))
        return len(item.context) - (0 if kv is None else min(kv.length, len(item.context) - 1))

    def _unread_prefixes(self) -> dict[SessionKey, int]:
        return {key: self._unread_prefix(item) for key, item in self.pending.items()}

    def schedule(self, drafts: Mapping[SessionKey, tuple[int, ...]] | None = None) -> list[Scheduled]:
        """Choose what shares the next forward, at most one item per session, and have room for it.

        Raises:
            MemoryError: nothing can go on, as the oldest item alone has no room.
        """
        self._drafts = drafts or {}
        if not self.pending:
            return []
        self._steps += 1
        ready, reading = self._shares()
        chosen = self._with_room(ready | reading)
        self.writing = sum(len(one.model_input.tokens) for one in chosen if one.item.key in ready)
        for one in chosen:
            if one.item.key in reading:
                self._reading.usage.add(one.item.key[0], len(one.model_input.tokens), self._clock())
        if not chosen:  # those whose turn it is have no room beside the oldest
            oldest = next(iter(self.pending.values()))
            chosen = self._with_room({oldest.key: min(self.unread(oldest), max(2, self._reading.most(0)))})
        if not chosen:
            edge, session = oldest.key
            raise MemoryError(f"no room for the keys and values of session {edge}/{session} alone")
        return chosen

    def settle(self, item: WorkItem, tokens: tuple[int, ...]) -> bool:
        """Take what was decided for an item: its keys and values go back to what that leaves right.

        Returns:
            Whether it counts: not if the item was dropped or replaced meanwhile.
        """
        kv = self.caches.get(item.key)
        if kv is not None:
            kv.roll_back(len(item.context) + len(tokens) - 1)
        if self.pending.get(item.key) is not item:
            return False
        self.drop(item.key)
        return True

    def _with_room(self, shares: dict[SessionKey, int]) -> list[Scheduled]:
        waiting = list(self.pending)
        chosen = []
        for key, item in self.pending.items():
            most = shares.get(key, 0)
            model_input = self._model_input(item, most, waiting) if most else None
            if model_input is not None:
                chosen.append(Scheduled(item, model_input, self._draft(item)))
                self._served[key] = self._steps
        return chosen

    def _model_input(self, item: WorkItem, most: int, waiting: Sequence[SessionKey]) -> ModelInput | None:
        """Up to `most` tokens of an item, at the cost of others' caches where it must be; None if there is no room.

        The cache is rolled back to what it shares with the item's prefix, so it can never disagree with it.
        """
        head = self._head(item)
        known = self.caches.of_head(item.key, head)
        held = 0 if known is None else known.match(item.context[:-1])
        draft = self._draft(item)
        all_of_it = len(item.context) + len(draft)
        # Where the memory is short, the session's own cache may be forgotten for a larger one.
        kv = self.caches.take(item.key, min(held + most, all_of_it), _whole(item), waiting, soon=all_of_it)
        if kv is None:
            return None
        context = list(item.context)
        tokens = [*context[kv.length :], *draft]
        if len(tokens) <= most:
            return ModelInput(kv, tokens, len(draft) + 1, head)
        # The last token of the prefix must share the forward with the draft: its row decides the first token.
        return ModelInput(kv, tokens[: min(most, len(context) - kv.length - 1)], 0, head)

    def _shares(self) -> tuple[dict[SessionKey, int], dict[SessionKey, int]]:
        """How many tokens each item may feed, memory aside: those that are ready, and those that are reading."""
        ready: dict[SessionKey, int] = {}
        unread: dict[SessionKey, int] = {}
        for key, left in (self._left or self._unread_prefixes()).items():
            tokens = left + len(self._draft(self.pending[key]))
            if left > 1:
                unread[key] = tokens
            elif key not in self._held_back:
                ready[key] = tokens
        self._left, self._held_back = {}, set()
        now = self._clock()
        return ready, self._reading.allot(
            dict(sorted(unread.items(), key=lambda one: self._served[one[0]])),
            ready,
            now=now,
            away=self._presence.since_others({edge for edge, _ in unread}, now),
            turn=self._steps,
        )


def _whole(item: WorkItem) -> int:
    """Tokens that an item's session can ever hold."""
    return max(item.prompt_length + item.identity.limit, len(item.context) + len(item.draft))
