"""A model that computes nothing: the next token is a hash of seed and prefix, and a step takes a set time.

The daemon around it is the real one. What a step takes models an accelerator: the engine's thread is held for that
long without using a processor, so that the worker and not this machine is the limit.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from cloud_worker.engine.interface import Facts, StepResult
from edge_node.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import WorkItem

VOCABULARY = 49_152
CONTEXT = 65_536
FINGERPRINT = bytes(range(16))
EOS = (0,)
"""Never written, as nobody's text ends by it."""


def token(seed: int, prefix: Sequence[int]) -> int:
    """The token after `prefix`: a pure function, in which every earlier token counts."""
    return 1 + _hash(b"target", seed, array("I", prefix)) % (VOCABULARY - 1)


def guess(seed: int, prefix: Sequence[int], right: float) -> int:
    """What the null draft says instead: the same in a share `right` of all prefixes, and always the same for one."""
    found = token(seed, prefix)
    if _hash(b"draft", seed, array("I", prefix)) % 10_000 < 10_000 * right:
        return found
    return 1 + found % (VOCABULARY - 1)


def text(seed: int, prompt: Sequence[int], limit: int) -> list[int]:
    """What the target alone writes."""
    prefix = array("I", prompt)
    for _ in range(limit):
        prefix.append(token(seed, prefix))
    return prefix.tolist()[len(prompt) :]


def rounds(seed: int, prompt: Sequence[int], limit: int, *, k: int, right: float) -> int:
    """Rounds that a text takes with drafts of `k` tokens: the first decides one token, as nothing is drafted yet."""
    prefix = array("I", prompt)
    prefix.append(token(seed, prefix))
    count, end = 1, len(prompt) + limit
    while len(prefix) < end:
        count += 1
        for place in range(k + 1):
            decided = token(seed, prefix)
            drafted = guess(seed, prefix, right) if place < k else None
            prefix.append(decided)
            if drafted != decided or len(prefix) == end:
                break
    return count


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that a step takes: as many in any case, and so many more for each token that it reads."""

    step: float = 0.0
    token: float = 0.0

    def of(self, tokens: int) -> float:
        """A step over so many tokens."""
        return self.step + self.token * tokens


class NullEngine:
    """An `Engine` over the null model.

    Args:
        cost: of a step.
    """

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self._pending: dict[SessionKey, WorkItem] = {}
        self._read: dict[SessionKey, int] = {}

    @property
    def facts(self) -> Facts:
        """What it is."""
        return Facts(FINGERPRINT, CONTEXT, VOCABULARY, "exact", None, "none", "none")

    @property
    def memory(self) -> None:
        """It holds no keys and values."""
        return None

    def add(self, item: WorkItem) -> None:
        """Take an item in; the next step decides it."""
        self._pending[item.key] = item

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        self._pending.pop(key, None)
        self._read.pop(key, None)

    def release(self, key: SessionKey) -> None:
        """Nothing is kept for others."""
        self.free(key)

    def transfer(self, source: SessionKey, key: SessionKey) -> None:
        """What was read for one session counts as read for another."""
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
        decided = [(item, decide(item)) for item in items]
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


def decide(item: WorkItem) -> tuple[int, ...]:
    """Tokens for one item, up to the first that differs from its draft."""
    prefix = array("I", item.context)
    seed = item.identity.seed
    decided: list[int] = []
    for drafted in (*item.draft, None):
        decided.append(token(seed, prefix))
        prefix.append(decided[-1])
        if decided[-1] != drafted:
            break
    return tuple(decided)


@dataclass(frozen=True, slots=True)
class NullDrafter:
    """A `Drafter` that is right in a share of all prefixes, and takes no time."""

    right: float

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < CONTEXT

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """One token for each."""
        return [(DraftToken(guess(one.identity.seed, one.context, self.right)),) for one in wanted]

    def free(self, session: int) -> None:
        """There is nothing to forget."""


def _hash(what: bytes, seed: int, prefix: array[int]) -> int:
    made = blake2b(prefix.tobytes(), digest_size=8, key=seed.to_bytes(8, "big"), person=what)
    return int.from_bytes(made.digest(), "big")
