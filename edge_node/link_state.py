"""The link to the broker, as far as the node's sessions know of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flexspec_mq.errors import LinkDown

if TYPE_CHECKING:
    from flexspec_mq.transport.link import Link


class LinkState:
    """Whether the link is up, and who waits for it.

    Attributes:
        waiting: texts that wait for the link.
        losses: connections that were lost.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._link: Link | None = None
        self.losses = 0
        self._since = time.monotonic()
        self._told = asyncio.Event()  # the sessions know that it is up

    @property
    def is_up(self) -> bool:
        """Whether there is a link, and it is up."""
        return self._link is not None and self._link.is_up and self._told.is_set()

    @property
    def seconds(self) -> float:
        """Seconds for which it has been as it is, up or not."""
        return time.monotonic() - self._since

    @property
    def down_for(self) -> float:
        """Seconds for which there has been no link; 0 while there is one."""
        return 0.0 if self.is_up else self.seconds

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
            self._since = time.monotonic()
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
                await self.settled()
        except (LinkDown, TimeoutError):
            return False
        finally:
            self.waiting -= 1
        return True
