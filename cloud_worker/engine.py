"""The verifier: reads what a forward needs for each work item and decides tokens. Knows token ids only.

Everything here runs on one thread, never on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud_worker.verify import decide
from flexspec_mq.models.packed import Feed, PackedModel, to_numpy
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexspec_mq.models.kv import SessionKV
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker import WorkItem
    from schemas.messages import Identity


@dataclass(frozen=True, slots=True)
class Slice:
    """What one item contributes to one forward.

    Attributes:
        most: tokens that it may feed at most; the rest waits for the next forward.
    """

    item: WorkItem
    most: int


@dataclass(frozen=True, slots=True)
class Decided:
    """An item's share of a forward.

    Attributes:
        tokens: decided ones; empty when the prefix is not read to its end yet.
    """

    item: WorkItem
    tokens: tuple[int, ...]


class Engine:
    """Keys and values of every session, and the forward over many of them."""

    def __init__(self, model: PackedModel) -> None:
        self._model = model
        self._sessions: dict[SessionKey, SessionKV] = {}

    def __len__(self) -> int:
        """Sessions whose keys and values are held."""
        return len(self._sessions)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return sum(kv.nbytes for kv in self._sessions.values())

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        self._sessions.pop(key, None)

    def unread(self, item: WorkItem) -> int:
        """How many tokens the item would feed, its draft included."""
        kv = self._sessions.get(item.key)
        read = 0 if kv is None else min(kv.length, len(item.context) - 1)
        return len(item.context) - read + len(item.draft)

    def step(self, slices: Sequence[Slice]) -> list[Decided]:
        """Run one forward over all slices; at most one per session.

        The cache is rolled back to what it shares with the item's prefix, so it can never disagree with it.
        """
        feeds = [self._feed(piece) for piece in slices]
        logits = to_numpy(self._model.forward(feeds))
        decided: list[Decided] = []
        row = 0
        for piece, feed in zip(slices, feeds, strict=True):
            item = piece.item
            tokens: tuple[int, ...] = ()
            if feed.rows:
                eos = () if item.identity.ignore_eos else item.identity.eos
                tokens = decide(
                    logits[row : row + feed.rows],
                    item.draft,
                    sampling(item.identity),
                    len(item.context),
                    eos,
                )
                feed.kv.roll_back(len(item.context) + len(tokens) - 1)
            row += feed.rows
            decided.append(Decided(item, tokens))
        return decided

    def _feed(self, piece: Slice) -> Feed:
        item = piece.item
        kv = self._sessions.get(item.key)
        if kv is None:
            kv = self._sessions[item.key] = self._model.new_kv()
        wanted = list(item.context)
        kv.match(wanted[:-1])
        feed = [*wanted[kv.length :], *item.draft]
        if len(feed) > piece.most:
            # The last token of the prefix must share the forward with the draft: its row decides the first token.
            return Feed(kv, feed[: min(piece.most, len(wanted) - kv.length - 1)], 0)
        return Feed(kv, feed, len(item.draft) + 1)


def sampling(identity: Identity) -> SamplingParams:
    """The sampling parameters that an identity names."""
    return SamplingParams(identity.temperature, identity.top_k, identity.top_p, identity.seed)
