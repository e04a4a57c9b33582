"""Upkeep of a family's topics at a broker that lost them, by programs that hold what is signed.

Who puts something back needs no trust: all who read it look at its signature and epoch. A message gives
way only to what outranks it (`Follower.rightful_keys`, `Follower.rightful_catalogue`), which is an order, so that two
programs never take turns.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from flexspec_mq import waiting
from flexspec_mq.catalogue.driver import topics_of
from flexspec_mq.catalogue.follower import Follower
from flexspec_mq.errors import LinkDown, PublishRefused

_log = logging.getLogger(__name__)


class Upkeep:
    """Puts back what stands no more on a family's topics, or never did.

    Args:
        follower: state of the family, which others change.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._keys, self._catalogue = topics_of(follower.family)
        self._standing: dict[str, bytes] = {}
        self._up = False
        self._changed = asyncio.Event()

    def linked(self, *, up: bool) -> None:
        """The link is up, or down; what stood on the topics before may not do so any more."""
        self._up = up
        if up:
            self._changed.set()
        else:
            self._standing.clear()

    def saw(self, topic: str, payload: bytes) -> None:
        """A message stands on one of the topics now."""
        self._standing[topic] = payload
        self._changed.set()

    def lost(self) -> list[tuple[str, bytes]]:
        """Messages to be retained, by topic."""
        if not self._up:
            return []
        keys, catalogue = self._standing.get(self._keys, b""), self._standing.get(self._catalogue, b"")
        rightful = (
            (self._keys, self._follower.rightful_keys(keys)),
            (self._catalogue, self._follower.rightful_catalogue(catalogue, keys)),
        )
        return [(topic, payload) for topic, payload in rightful if payload]

    async def run(self, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        """Put back what is lost, with `publish`, until cancelled or refused by the broker."""
        first, longest = waiting.RETRY_AWAITED, 2 * waiting.RETRY[1]
        pause = first
        while True:
            await self._changed.wait()
            # Others may do it first.
            await asyncio.sleep(pause * random.uniform(1, 2))  # noqa: S311  no secret
            self._changed.clear()
            lost = self.lost()
            pause = min(2 * pause, longest) if lost else first
            for topic, payload in lost:
                _log.warning("family %s: %s is put back", self._follower.family, topic)
                try:
                    await publish(topic, payload)
                except LinkDown:
                    break
                except PublishRefused as refused:
                    _log.warning("nothing is put back any more: %s", refused)
                    return
