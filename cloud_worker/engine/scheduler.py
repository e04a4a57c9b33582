"""Choice of the items that share the next forward.

Items that are ready to decide all go, but for those of a device that has more of them than others have, as far as
they would make these wait. Prefixes that are still being read share what the step's budget leaves, so that a long
prompt slows a step by a bounded amount (`SlotBudget` says how much of either).

Where memory is short, room is given in the order in which work arrived: an item may cost the caches of later ones,
never of earlier ones. So the oldest item always gets on, and no two sessions can throw each other out for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud_worker.engine.grammars import MOST_FORCED
from flexspec_mq import entropy
from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloud_worker.engine.kv_cache import KVCache
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem
    from flexspec_mq.scheduling.slot_budget import SlotBudget
    from flexspec_mq.scheduling.step_slots import StepSlots


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An item's share of a forward.

    Attributes:
        model_input: Tokens to read, with the KV cache; without rows while the prefix is not read to its end.
        draft: Tokens to verify: the edge's draft or its beginning, and the worker's own behind it.
    """

    item: WorkItem
    model_input: ModelInput
    draft: tuple[int, ...]


class Scheduler:
    """Items taken from the protocol machine and not yet decided, and the KV caches of their sessions.

    Args:
        caches: KV caches, which nobody else changes.
        budget: Decides how many slots of each step which session gets.
        clock: Time in seconds.

    Attributes:
        budget: See above.
        heads: name of the model's head by version; versions that are not here are the base itself.
        pending: Items by session, in the order of arrival.
    """

    def __init__(
        self, caches: KVCache, budget: SlotBudget, *, clock: Callable[[], float] = entropy.now
    ) -> None:
        self.caches = caches
        self.budget = budget
        self.heads: dict[str, str] = {}
        self.pending: dict[SessionKey, WorkItem] = {}
        self._drafts: Mapping[SessionKey, tuple[int, ...]] = {}
        self._served: dict[SessionKey, int] = {}
        self._steps = 0
        self._clock = clock
        # Unread tokens while the next forward is made up: of prefixes that it decides, and of others with drafts.
        self._decides: dict[SessionKey, int] = {}
        self._reading: dict[SessionKey, int] = {}

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self.pending[item.key] = item
        self._served[item.key] = self._steps

    def drop(self, key: SessionKey) -> None:
        """The session's item need not be computed."""
        self.pending.pop(key, None)
        self._served.pop(key, None)

    def free(self, key: SessionKey) -> None:
        """Forget a session, its item, and its KV cache; it need not be known."""
        self.drop(key)
        self.budget.forget(key)
        self.caches.free(key)

    def release(self, key: SessionKey) -> None:
        """A session is over: drop its item, and keep its KV cache while there is room."""
        self.drop(key)
        self.budget.forget(key)
        self.caches.release(key)

    def _head(self, item: WorkItem) -> str:
        return self.heads.get(item.version, "")

    def _draft(self, item: WorkItem) -> tuple[int, ...]:
        return self._drafts.get(item.key, item.draft)

    def begin(self) -> StepSlots:
        """Slots of the next forward for what it decides, if there is room; prompts get theirs by `schedule`."""
        unread = {key: self._unread_prefix(item) for key, item in self.pending.items()}
        drafts = {key: len(item.draft) for key, item in self.pending.items()}
        # Tokens that a grammar has forced are read with the next one.
        reads = [
            key
            for key, item in self.pending.items()
            if unread[key] > 1 + (MOST_FORCED if item.identity.grammar is not None else 0)
        ]
        reads.sort(key=self._served.__getitem__)
        self._reading = {key: unread[key] + drafts[key] for key in reads}
        ready = {key: drafted for key, drafted in drafts.items() if key not in self._reading}
        slots = self.budget.step(ready, self._reading, self._clock())
        self._decides = {key: unread[key] for key in slots.granted}
        return slots

    def unread(self, item: WorkItem) -> int:
        """Tokens that the item would feed, its draft included."""
        return self._unread_prefix(item) + len(self._draft(item))

    def _unread_prefix(self, item: WorkItem) -> int:
        kv = self.caches.of_head(item.key, self._head(item))
        return len(item.context) - (0 if kv is None else min(kv.length, len(item.context) - 1))

    def schedule(self, drafts: Mapping[SessionKey, tuple[int, ...]] | None = None) -> list[Scheduled]:
        """Choose what shares the next forward, begun with `begin`, and have room for it.

        Args:
            drafts: tokens to verify, by session; those of the edges where there are none.

        Raises:
            MemoryError: nothing can go on, as the oldest item alone has no room.
        """
        self._drafts = drafts or {}
        if not self.pending:
            return []
        self._steps += 1
        decides = {key: left + len(self._draft(self.pending[key])) for key, left in self._decides.items()}
        prompts = self.budget.prompts(self._reading, decides, self._clock())
        chosen = self._with_room(decides | prompts)
        for key in prompts.keys() - {share.item.key for share in chosen}:
            self.budget.unused(key[0], prompts[key], self._clock())
        if not chosen:  # those whose turn it is have no room beside the oldest
            oldest = next(iter(self.pending.values()))
            chosen = self._with_room({oldest.key: min(self.unread(oldest), max(2, self.budget.most))})
        if not chosen:
            edge, session = oldest.key
            raise MemoryError(f"no room for the KV cache of session {edge}/{session} alone")
        return chosen

    def settle(self, item: WorkItem, tokens: tuple[int, ...]) -> bool:
        """Take what was decided for an item: its KV cache is rolled back to what that leaves right.

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


def _whole(item: WorkItem) -> int:
    """Tokens that an item's session can ever hold."""
    return max(item.prompt_length + item.identity.limit, len(item.context) + len(item.draft))
