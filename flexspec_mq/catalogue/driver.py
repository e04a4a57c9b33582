"""A follower of a family, with a disk and a clock: what every program that follows one does with what comes.

A message that changes something is on the disk before it is adopted. A message that the disk refused, and a
catalogue that waits for its key set or for our clock, are looked at again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from flexspec_mq import topics, waiting
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import RecordError, SignedRefused
from flexspec_mq.catalogue.store import Store

_WAITING: Final = 64
"""Messages that may wait to be judged; of more the oldest are dropped, as a newer one of its topic says all."""

Outcome = Accepted | SignedRefused | RecordError | None
"""Outcome of a message: adopted, refused, or not to be kept now, which changes nothing; None: adopted already."""


def topics_of(family: str) -> tuple[str, str]:
    """Topics of the key set and of the catalogue; in this order, so that a catalogue need not wait for its keys."""
    return topics.keys_topic(family), topics.catalogue_topic(family)


class Driver:
    """Drives a follower, which begins with what `store` has; `clock` gives seconds since the Unix epoch.

    Attributes:
        follower: state of the family.
        topics: see `topics_of`.
    """

    def __init__(self, follower: Follower, store: Store, clock: Callable[[], float] = time.time) -> None:
        self.follower = follower
        self.topics = topics_of(follower.family)
        self._store = store
        self._clock = clock
        self._inbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_WAITING)
        self._unkept: dict[str, bytes] = {}

    def take(self, topic: str, payload: bytes) -> bool:
        """Take a message for `turn`; whether it is of the family."""
        if topic not in self.topics:
            return False
        if self._inbox.full():
            self._inbox.get_nowait()
        self._inbox.put_nowait((topic, payload))
        return True

    async def turn(self) -> Sequence[tuple[str, Outcome]]:
        """Judge the next message, or without one for a while what waits; the outcomes, by topic."""
        try:
            async with asyncio.timeout(waiting.STATUS):
                topic, payload = await self._inbox.get()
        except TimeoutError:
            return await self.again()
        return await self.judge(topic, payload)

    async def judge(self, topic: str, payload: bytes) -> Sequence[tuple[str, Outcome]]:
        """Judge a message of one of the topics, and take it up.

        Returns:
            Its outcome, and behind that of a key set the one of the catalogue that had waited for it.
        """
        keys, catalogue = self.topics
        waited = self.follower.waiting
        receive = self.follower.receive_keys if topic == keys else self.follower.receive_catalogue
        outcome = await self._kept(receive(payload, self._clock()))
        if isinstance(outcome, RecordError):
            self._unkept[topic] = payload
        elif not isinstance(outcome, SignedRefused):
            self._unkept.pop(topic, None)
        if topic == keys and waited and isinstance(outcome, Accepted):
            return ((keys, outcome), (catalogue, outcome.refused or outcome))
        return ((topic, outcome),)

    async def again(self) -> Sequence[tuple[str, Outcome]]:
        """Judge anew what the disk refused, and the catalogue that waits; nothing is said if that goes on waiting."""
        outcomes: list[tuple[str, Outcome]] = []
        for topic in self.topics:
            if (payload := self._unkept.pop(topic, None)) is not None:
                outcomes += await self.judge(topic, payload)
        outcome = self.follower.again(self._clock())
        if outcome is not None and not (isinstance(outcome, SignedRefused) and self.follower.waiting):
            outcomes.append((self.topics[1], await self._kept(outcome)))
        return outcomes

    async def _kept(self, outcome: Accepted | SignedRefused | None) -> Outcome:
        """Adopt what was accepted, once it is on the disk."""
        if isinstance(outcome, Accepted):
            try:
                await asyncio.to_thread(self._store.save, outcome.record)
            except RecordError as error:
                return error
            self.follower.adopt(outcome.record)
        return outcome
