"""Prompts that a simulated worker reads: who shares the next forward, as the real scheduler has it.

There is room for all keys and values, so nobody's is dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkItem
from flexspec_mq.scheduling.step_budget import StepBudget


@dataclass(frozen=True, slots=True)
class Share:
    """An item's share of a forward.

    Attributes:
        item: item of a session.
        draft: tokens that it verifies, if it decides.
        decides: whether its prefix is read to its end.
        read: tokens of its prefix that it reads, the last one apart where it decides.
    """

    item: WorkItem
    draft: tuple[int, ...]
    decides: bool
    read: int = 0


class Reading:
    """Items that are not decided yet, and how far their sessions' prefixes are read.

    Args:
        budget: Budget of each step, divided by device.

    Attributes:
        pending: items by session, in the order of arrival.
    """

    def __init__(self, budget: StepBudget) -> None:
        self.pending: dict[SessionKey, WorkItem] = {}
        self._read: dict[SessionKey, int] = {}
        self._served: dict[SessionKey, int] = {}
        self._steps = 0
        self._budget = budget

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self.pending[item.key] = item
        self._served[item.key] = self._steps

    def forget(self, key: SessionKey) -> None:
        """A session is over."""
        self.pending.pop(key, None)
        self._read.pop(key, None)
        self._served.pop(key, None)
        self._budget.forget(key)

    def writing(self, now: float) -> list[WorkItem]:
        """Items whose prefix is read and whose turn it is: the next forward decides them."""
        ready = [key for key, item in self.pending.items() if self._unread(item) <= 1]
        reading = {key[0] for key, item in self.pending.items() if self._unread(item) > 1}
        return [self.pending[key] for key in self._budget.rows(ready, reading, len(ready), now)]

    def _unread(self, item: WorkItem) -> int:
        """Tokens of its prefix that are to be read, the last one in any case."""
        return len(item.context) - min(self._read.get(item.key, 0), len(item.context) - 1)

    def prompt_ms(self, writing: int) -> float:
        """Ms that reading adds to the next forward, see `StepBudget`."""
        unread = sum(left for item in self.pending.values() if (left := self._unread(item)) > 1)
        return self._budget.prompt_ms(writing, unread)

    def shares(self, drafts: Mapping[SessionKey, tuple[int, ...]], now: float) -> list[Share]:
        """Shares of the next forward.

        Args:
            drafts: tokens that sessions that write verify.
            now: seconds.
        """
        self._steps += 1
        shares = [Share(self.pending[key], draft, True) for key, draft in drafts.items()]
        unread = {key: left for key, item in self.pending.items() if (left := self._unread(item)) > 1}
        wanted = {
            key: unread[key] + len(self.pending[key].draft)
            for key in sorted(unread, key=self._served.__getitem__)
        }
        rows = {key: 1 + len(draft) for key, draft in drafts.items()}
        for key, share in self._budget.prompts(wanted, rows, now).items():
            item = self.pending[key]
            whole = share >= wanted[key]
            read = unread[key] - 1 if whole else min(share, unread[key] - 1)
            shares.append(Share(item, item.draft if whole else (), whole, read))
            self._served[key] = self._steps
            if not whole:
                self._read[key] = self._read.get(key, 0) + read
        return shares

    def settles(self, share: Share) -> bool:
        """Whether a share decides its item, and that counts: not if it was dropped or replaced meanwhile."""
        if not share.decides or self.pending.get(share.item.key) is not share.item:
            return False
        del self.pending[share.item.key]
        return True

    def decided(self, item: WorkItem, tokens: int) -> None:
        """So many tokens of an item were decided; all but the last one are read."""
        self._read[item.key] = len(item.context) + tokens - 1
