"""Texts that workers hold of this edge, so that a prompt that goes on from one need not be sent again.

The second turn of a chat is the first one, its answer, and a little more. What both have in common is compared by
token ids: the text of an answer may come out as other tokens when it is read again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from typing import TYPE_CHECKING

from flexspec_mq.protocol.edge.session import Reuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.protocol.edge.session import Written


class PrefixIndex:
    """Bounded by texts, tokens and age; the oldest goes first.

    Args:
        most: texts remembered.
        most_tokens: in all of them together.
        life: seconds that one is remembered; workers keep theirs for 600.
        least: tokens in common from which naming them pays; a name takes about as many bytes as 13 tokens.
    """

    def __init__(
        self, *, most: int = 16, most_tokens: int = 262_144, life: float = 600.0, least: int = 32
    ) -> None:
        self._most = most
        self._most_tokens = most_tokens
        self._life = life
        self._least = least
        self._texts: OrderedDict[int, tuple[str, Written, float]] = OrderedDict()
        self._next = 0
        self._tokens = 0

    def __len__(self) -> int:
        """Texts remembered."""
        return len(self._texts)

    def remember(self, version: str, written: Written, now: float) -> None:
        """A session of a version is over whose text its worker holds."""
        self._texts[self._next] = (version, written, now + self._life)
        self._next += 1
        self._tokens += len(written.tokens)
        while len(self._texts) > self._most or self._tokens > self._most_tokens:
            self._drop(next(iter(self._texts)))

    def forget(self, worker: str) -> None:
        """A worker is gone, and all that it held."""
        for number in [n for n, (_, written, _) in self._texts.items() if written.worker == worker]:
            self._drop(number)

    def offer(self, version: str, prompt: Sequence[int], now: float) -> Reuse | None:
        """The version's worker that holds the longest beginning of a prompt, the newest of equals.

        None if none is worth it. At least the last token of the prompt is never part of it.
        """
        for number in [n for n, (_, _, expires) in self._texts.items() if expires <= now]:
            self._drop(number)
        best: Reuse | None = None
        for of_version, written, _ in reversed(self._texts.values()):
            if of_version != version:
                continue
            count = min(_common(prompt, written.tokens), len(prompt) - 1)
            if count >= self._least and (best is None or count > best.count):
                best = Reuse(written.worker, count)
        return best

    def _drop(self, number: int) -> None:
        _, written, _ = self._texts.pop(number)
        self._tokens -= len(written.tokens)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix, by comparing slices: half of what is left each time."""
    most = min(len(one), len(other))
    one, other = tuple(one[:most]), tuple(other[:most])
    return bisect_left(range(1, most + 1), True, key=lambda length: one[:length] != other[:length])
