"""The link to the broker, as far as the node's sessions know of it, and what users can expect meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from flexspec_mq import entropy, waiting
from flexspec_mq.errors import LinkDown
from schemas.status import ConnectionStatus, Outage

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link


class LinkState:
    """Whether the link is up, and who waits for it.

    Attributes:
        waiting: texts that wait for the link.
        losses: connections that were lost.
        spent: says that the day's bytes are used up, which is as if there were no link; empty while they are not.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.spent: Callable[[], str] = lambda: ""
        self._link: Link | None = None
        self.losses = 0
        self._since = entropy.now()
        self._past_outages = 0.0
        self._last_outage: Outage | None = None
        self._told = asyncio.Event()  # the sessions know that it is up

    @property
    def is_up(self) -> bool:
        """Whether there is a link, and it is up."""
        return self._link is not None and self._link.is_up and self._told.is_set()

    @property
    def answer_timeout(self) -> float:
        """Seconds within which somebody beyond the link answers, as far as its settings know."""
        return waiting.ANSWER if self._link is None else self._link.settings.answer_timeout

    @property
    def seconds(self) -> float:
        """Seconds for which it has been as it is, up or not; 0 where it is lost and the sessions are not told yet."""
        return 0.0 if self._told.is_set() and not self.is_up else entropy.now() - self._since

    @property
    def down_for(self) -> float:
        """Seconds for which there has been no link; 0 while there is one."""
        return 0.0 if self.is_up else self.seconds

    @property
    def offline_seconds(self) -> float:
        """Seconds without a link since the node started."""
        return self._past_outages + self.down_for

    @property
    def outage(self) -> Outage | None:
        """The newest outage, which ends now if it lasts; None before any."""
        if self._told.is_set() or not self.losses:
            return self._last_outage
        return Outage(ended=entropy.wall(), seconds=self.seconds)

    @contextmanager
    def using(self, link: Link) -> Iterator[None]:
        """Have this link for as long as the block."""
        self._link = link
        try:
            yield
        finally:
            self._link = None

    def up(self) -> None:
        """Note that the sessions know that the link is up, or learn why there will be none."""
        if not self._told.is_set():
            self._last_outage = self.outage
            self._past_outages += self.seconds
            self._since = entropy.now()
        self._told.set()

    def down(self, now: float) -> None:
        """Note that the link is lost."""
        self._told.clear()
        self.losses += 1
        self._since = now

    async def settled(self) -> None:
        """Wait until the link is up and the sessions know: one that began before would open twice when it learns.

        Raises:
            LinkError: the link failed for good.
        """
        if self._link is not None:
            await self._link.wait_up()
            await self._told.wait()

    async def wait_up(self, timeout: float) -> bool:
        """Wait for the link up to `timeout` seconds; tell whether it is up.

        Raises:
            LinkError: the link failed for good.
        """
        if self._link is None:
            return False
        self.waiting += 1
        try:
            if not self._link.is_up:
                self._link.reconnect("a text waits for the link")
            async with asyncio.timeout(timeout):
                while self.spent():  # noqa: ASYNC110  the wall clock says when
                    await asyncio.sleep(waiting.ANSWER)
                await self.settled()
        except (LinkDown, TimeoutError):
            return False
        finally:
            self.waiting -= 1
        return True


class NodeState:
    """Whether a node is online, degraded or offline, since when and why.

    Args:
        link: link to the broker.
        unserved: tells why no text can begin although there is a link; empty when one can.

    Attributes:
        waiting: counts texts that wait.
    """

    def __init__(self, link: LinkState, unserved: Callable[[], str]) -> None:
        self.waiting: Callable[[], int] = lambda: 0
        self._link = link
        self._unserved = unserved
        self._state: Literal["online", "degraded", "offline"] = "offline"
        self._since = entropy.wall()

    @property
    def not_ready(self) -> str:
        """Why no text can be written now; empty when it can, as far as anybody knows."""
        no_link = "" if self._link.is_up else "the edge node has no link to its broker"
        return no_link or self._link.spent() or self._unserved()

    def look(self) -> ConnectionStatus:
        """The state as it is now. A change that is not the link's counts from the first look at it."""
        why, waiting = self.not_ready, self.waiting()
        if not why and waiting:
            why = "a text waits" if waiting == 1 else f"{waiting} texts wait"
        state: Literal["online", "degraded", "offline"] = "degraded" if why else "online"
        if not self._link.is_up:
            state = "offline"
        if state != self._state:
            of_link = "offline" in (state, self._state)
            self._since = round(entropy.wall() - (self._link.seconds if of_link else 0.0), 3)
            self._state = state
        return ConnectionStatus(
            state=state,
            since=self._since,
            why=why,
            waiting=waiting,
            outage=None if state == "offline" else self._link.outage,
        )
