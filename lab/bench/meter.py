"""IP bytes that an answer puts on a link."""

import asyncio

from lab.testbed.link.counters import LinkCounters
from lab.testbed.link.netns import NetnsLink

LinkBytes = tuple[int | None, int | None]
"""IP bytes that device and cloud put on the link, lost ones included; None without a link."""
_SETTLES = 0.5
"""Seconds after an answer for what ends its session to be carried, so that all of it is counted."""


class LinkMeter:
    """Reads a link before and after an answer. Answers come one after the other.

    Args:
        link: None on loopback.
    """

    def __init__(self, link: NetnsLink | None) -> None:
        self._link = link
        self._counters: LinkCounters | None = None

    def begin(self, at: float | None) -> None:
        """An answer begins now.

        Args:
            at: second of the channel to set the link to; None lets it go on.
        """
        if self._link is not None:
            self._counters = self._link.counters if at is None else self._link.seek(at)

    async def end(self) -> LinkBytes:
        """The answer is there: bytes since it began."""
        await asyncio.sleep(_SETTLES)
        if self._link is None or self._counters is None:
            return None, None
        now, before = self._link.counters, self._counters
        return now.up.bytes_in - before.up.bytes_in, now.down.bytes_in - before.down.bytes_in
