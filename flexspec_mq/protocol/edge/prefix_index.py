"""Texts that workers hold of this edge, so that a prompt that goes on from one need not be sent again.

The second turn of a chat is the first one, its answer, and a little more. Their common part is compared by
token ids: the text of an answer may come out as other tokens when it is read again.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import count

from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.protocol.edge.types import Reuse, Written


class PrefixIndex:
    """Bounded by texts, tokens and age; the oldest goes first.

    Args:
        most: texts remembered.
        most_tokens: bound over all of them together.
        ttl: seconds that one is remembered; workers keep theirs for 600.
        least: tokens in common from which naming them pays; a name takes about as many bytes as 13 tokens.
    """

    def __init__(
        self, *, most: int = 16, most_tokens: int = 262_144, ttl: float = 600.0, least: int = 32
    ) -> None:
        self._least = least
        self._next = count()
        self._texts: ExpiringMap[int, tuple[str, Written]] = ExpiringMap(
            most=most, ttl=ttl, most_weight=most_tokens, weigh=lambda text: len(text[1].tokens)
        )

    def __len__(self) -> int:
        """Texts remembered."""
        return len(self._texts)

    def remember(self, version: str, written: Written, now: float) -> None:
        """A session of a version is over whose text its worker holds."""
        self._texts.put(next(self._next), (version, written), now)

    def forget(self, worker: str) -> None:
        """A worker is gone, and all that it held."""
        for number in [number for number, (_, written) in self._texts.items() if written.worker == worker]:
            self._texts.pop(number)

    def offer(self, version: str, prompt: Sequence[int], now: float) -> Reuse | None:
        """The version's worker that holds the longest beginning of a prompt, the newest of equals.

        None if none is worth it. At least the last token of the prompt is never part of it.
        """
        self._texts.expire(now)
        best: Reuse | None = None
        for _, (of_version, written) in reversed(list(self._texts.items())):
            if of_version != version:
                continue
            shared = min(_common(prompt, written.tokens), len(prompt) - 1)
            if shared >= self._least and (best is None or shared > best.count):
                best = Reuse(written.worker, shared, written.grammar)
        return best


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix, by comparing slices: half of what is left each time."""
    most = min(len(one), len(other))
    one, other = tuple(one[:most]), tuple(other[:most])
    return bisect_left(range(1, most + 1), True, key=lambda length: one[:length] != other[:length])
