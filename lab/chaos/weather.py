"""A link whose messages are lost, doubled, late and out of order while there is a storm, over a real link."""

import asyncio
import contextlib
import random

from flexspec_mq.errors import LinkDown, PublishRefused
from flexspec_mq.transport.base import Inbound, Outbound
from flexspec_mq.transport.inbox import Inbox
from flexspec_mq.transport.link import Link

_NEAR, _FAR = 0.3, 8.0
"""Seconds within which a copy comes after the message: of most, and of a quarter as many."""
_LATE = 0.4
"""Seconds for which a message that is late is held back at most, so that newer ones overtake it."""


class Weather:
    """Fate of each message.

    Args:
        rng: decides.

    Attributes:
        rate: share of the messages that are lost; as many are doubled, and twice as many late.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rate = 0.0
        self._rng = rng
        self._underway: set[asyncio.Task[None]] = set()

    def arrivals(self) -> list[float]:
        """Seconds after which each copy of a message arrives; none at all is a loss."""
        rng, rate = self._rng, self.rate
        if not rate:
            return [0.0]
        if rng.random() < rate:
            return []
        copies = [0.0]
        copies += [rng.uniform(0.0, _NEAR)] if rng.random() < rate else []
        copies += [rng.uniform(0.0, _FAR)] if rng.random() < rate / 4 else []
        return sorted(at + (rng.uniform(0.0, _LATE) if rng.random() < 2 * rate else 0.0) for at in copies)

    def begin(self) -> None:
        """Have all links of this process go through it."""
        put, hand_over = Inbox.put_message, Link.send

        def receive(inbox: Inbox, message: Inbound) -> None:
            for after in self.arrivals():
                if after:
                    asyncio.get_running_loop().call_later(after, put, inbox, message)
                else:
                    put(inbox, message)

        async def send(link: Link, message: Outbound) -> None:
            for after in self.arrivals():
                if not after:
                    await hand_over(link, message)
                    continue
                task = asyncio.create_task(late(after, link, message))
                self._underway.add(task)
                task.add_done_callback(self._underway.discard)

        async def late(after: float, link: Link, message: Outbound) -> None:
            await asyncio.sleep(after)
            with contextlib.suppress(LinkDown, PublishRefused):  # nobody is told of a copy that is lost
                await hand_over(link, message)

        for holder, name, ours in ((Inbox, "put_message", receive), (Link, "send", send)):
            setattr(holder, name, ours)
