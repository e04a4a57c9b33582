"""The verifier: reads what a forward needs for each work item and decides tokens. Knows token ids only.

Everything here runs on one thread, never on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.kv_cache import KVCache
from cloud_worker.engine.noise_prefetch import NoisePrefetch
from flexspec_mq.models.kv import GRAIN
from flexspec_mq.models.packed import ModelInput, PackedModel, to_numpy
from flexspec_mq.sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from flexspec_mq.models.kv import SessionKV
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import WorkItem
    from flexspec_mq.sampling.noise import Words
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
    """Keys and values of every session, and the forward over many of them.

    Args:
        model: the target.
        limit: most bytes of keys and values; None is no limit.

    Attributes:
        caches: the keys and values.
        fed: tokens that the newest forward read.
        room: tokens of one session whose keys and values fit, with no other session there; None is no limit.
    """

    def __init__(self, model: PackedModel, *, limit: int | None = None) -> None:
        self._model = model
        self.caches = KVCache(model.new_kv, limit)
        self.fed = 0
        self._ahead = NoisePrefetch(model.vocab_size)
        grain = GRAIN * model.new_kv().token_bytes
        self.room = None if limit is None else limit // grain * GRAIN

    def __len__(self) -> int:
        """Sessions whose keys and values are held."""
        return len(self.caches)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self.caches.nbytes

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        self.caches.free(key)

    def unread(self, item: WorkItem) -> int:
        """How many tokens the item would feed, its draft included."""
        kv = self.caches.get(item.key)
        read = 0 if kv is None else min(kv.length, len(item.context) - 1)
        return len(item.context) - read + len(item.draft)

    def make_room(self, item: WorkItem, most: int, waiting: Sequence[SessionKey]) -> bool:
        """Have room to feed `most` tokens of an item, at the cost of others' caches where it must be.

        It may cost the session's own cache, so ask `unread` again.

        Args:
            item: what is to be fed.
            most: tokens.
            waiting: sessions with work, in the order in which it arrived. Caches of those up to this one stay.

        Returns:
            Whether there is room; if not, nothing has changed.
        """
        return self._take(item, most, waiting) is not None

    def _take(self, item: WorkItem, most: int, waiting: Sequence[SessionKey]) -> SessionKV | None:
        kv = self.caches.get(item.key)
        held = 0 if kv is None else kv.match(item.context[:-1])
        all_of_it = len(item.context) + len(item.draft)
        length = min(held + most, all_of_it)
        return self.caches.take(item.key, length, _whole(item), waiting, soon=all_of_it)

    def step(self, slices: Sequence[Slice]) -> list[Decided]:
        """Run one forward over all slices; at most one per session.

        The cache is rolled back to what it shares with the item's prefix, so it can never disagree with it.

        Raises:
            MemoryError: there is no room for all of them; `make_room` tells for each.
        """
        keys = [piece.item.key for piece in slices]
        feeds = [self._feed(piece, keys) for piece in slices]
        self.fed = sum(len(feed.tokens) for feed in feeds)
        noises = [
            self._noise(piece.item) if feed.rows else None for piece, feed in zip(slices, feeds, strict=True)
        ]
        logits = to_numpy(self._model.forward(feeds))
        decided: list[Decided] = []
        row = 0
        for piece, feed, noise in zip(slices, feeds, noises, strict=True):
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
                    None if noise is None else noise.result(),
                )
                feed.kv.roll_back(len(item.context) + len(tokens) - 1)
            row += feed.rows
            decided.append(Decided(item, tokens))
        return decided

    def _noise(self, item: WorkItem) -> Future[Words] | None:
        return self._ahead.draw(sampling(item.identity), len(item.context))

    def _feed(self, piece: Slice, keys: Sequence[SessionKey]) -> ModelInput:
        item = piece.item
        kv = self._take(item, piece.most, keys)
        if kv is None:
            raise MemoryError(f"no room for the keys and values of session {item.key[0]}/{item.key[1]}")
        wanted = list(item.context)
        feed = [*wanted[kv.length :], *item.draft]
        if len(feed) > piece.most:
            # The last token of the prefix must share the forward with the draft: its row decides the first token.
            return ModelInput(kv, feed[: min(piece.most, len(wanted) - kv.length - 1)], 0)
        return ModelInput(kv, feed, len(item.draft) + 1)


def _whole(item: WorkItem) -> int:
    """Tokens that an item's session can ever hold."""
    return max(item.prompt_length + item.identity.limit, len(item.context) + len(item.draft))


def sampling(identity: Identity) -> SamplingParams:
    """The sampling parameters that an identity names."""
    return SamplingParams(identity.temperature, identity.top_k, identity.top_p, identity.seed)
