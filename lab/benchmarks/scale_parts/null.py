"""A model that computes nothing, with a real one's vocabulary: the next token is a hash of seed and prefix."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from flexspec_mq.protocol.worker.types import WorkItem

VOCABULARY = 49_152
CONTEXT = 65_536
FINGERPRINT = bytes(range(16))
EOS = (0,)
"""Never written, as nobody's text ends by it."""


def token(seed: int, prefix: Sequence[int]) -> int:
    """The token after `prefix`: a pure function, in which every earlier token counts."""
    return 1 + _hash(b"target", seed, array("I", prefix)) % (VOCABULARY - 1)


def draft_token(seed: int, prefix: Sequence[int], right: float) -> int:
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
            drafted = draft_token(seed, prefix, right) if place < k else None
            prefix.append(decided)
            if drafted != decided or len(prefix) == end:
                break
    return count


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


def _hash(what: bytes, seed: int, prefix: array[int]) -> int:
    made = blake2b(prefix.tobytes(), digest_size=8, key=seed.to_bytes(8, "big"), person=what)
    return int.from_bytes(made.digest(), "big")
