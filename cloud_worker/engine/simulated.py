"""An engine without weights, for tests and for measuring all that is around one.

The daemon around it is the real one. The time of a step models an accelerator: the engine's thread is held for that
long without using a processor, so that the worker and not this machine is the limit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud_worker.engine.interface import Facts, StepResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a step takes: as many in any case, and so many more for each token that it reads."""

    step: float = 0.0
    token: float = 0.0

    def of(self, tokens: int) -> float:
        """A step over so many tokens."""
        return self.step + self.token * tokens


FREE = Cost()


class SimulatedEngine:
    """An `Engine` over a function.

    Args:
        decide: tokens for one item, up to the first that differs from its draft.
        cost: Cost of a step.

    Attributes:
        heads: name of a head by version.
    """

    def __init__(
        self, facts: Facts, decide: Callable[[WorkItem], tuple[int, ...]], cost: Cost = FREE
    ) -> None:
        self._facts = facts
        self._decide = decide
        self._cost = cost
        self.heads: dict[str, str] = {}
        self._pending: dict[SessionKey, WorkItem] = {}
        self._read: dict[SessionKey, int] = {}

    @property
    def facts(self) -> Facts:
        """See `Engine`."""
        return self._facts

    @property
    def head_model(self) -> None:
        """It has no weights that heads could be of."""
        return None

    @property
    def memory(self) -> None:
        """It holds no keys and values."""
        return None

    def add(self, item: WorkItem) -> None:
        """Take an item in; the next step decides it."""
        self._pending[item.key] = item

    def hold(self, version: str, head: str) -> None:
        """Items of a version are of a head; what is decided for them is the function's business."""
        self.heads[version] = head

    def drop(self, version: str) -> str:
        """A version has no items any more, and gets none; the name of its head."""
        return self.heads.pop(version, "")

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        self._pending.pop(key, None)
        self._read.pop(key, None)

    def release(self, key: SessionKey) -> None:
        """Nothing is kept for others."""
        self.free(key)

    def transfer(self, source: SessionKey, key: SessionKey) -> None:
        """Tokens read for one session count as read for another."""
        self._read[key] = self._read.pop(source, 0)

    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._pending

    def step(self) -> StepResult:
        """Decide all that is pending, and hold the thread until the time of such a step is over."""
        began = time.perf_counter()
        items = list(self._pending.values())
        self._pending.clear()
        fed = sum(self._feed(item) for item in items)
        decided = [(item, self._decide(item)) for item in items]
        for item, tokens in decided:
            self._read[item.key] = len(item.context) + len(tokens) - 1
        left = began + self._cost.of(fed) - time.perf_counter()
        if left > 0:
            time.sleep(left)
        return StepResult(decided, int(1000 * (time.perf_counter() - began)), len(items), fed)

    def _feed(self, item: WorkItem) -> int:
        """Tokens that a real model would read for an item, as it holds keys and values of what it read before."""
        whole = len(item.context)
        read = min(self._read.get(item.key, 0), whole - 1)
        return whole - read + len(item.draft)
