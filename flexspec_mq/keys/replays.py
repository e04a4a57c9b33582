"""Which messages of a sender were taken already: the window of IPsec (RFC 4303, 3.4.3) over its counter."""

from __future__ import annotations

from typing import Final

from flexspec_mq.keys.refusals import KeyReason, KeysRefused

WIDTH: Final = 1024
"""How far behind the newest a message may come and still be told from a copy."""
_ALL: Final = (1 << WIDTH) - 1


class ReplayWindow:
    """Takes each counter once, in any order within `WIDTH` of the newest."""

    def __init__(self) -> None:
        self._newest = -1
        self._taken = 0  # bit i: newest - i was taken

    def take(self, counter: int) -> None:
        """Note a message whose key was right.

        Raises:
            KeysRefused: it was taken before, or is too old to tell.
        """
        ahead = counter - self._newest
        if ahead > 0:
            self._taken = (self._taken << min(ahead, WIDTH) | 1) & _ALL
            self._newest = counter
            return
        if -ahead >= WIDTH or self._taken >> -ahead & 1:
            raise KeysRefused(
                KeyReason.REPLAYED, f"message {counter} of its sender, after {self._newest}, again"
            )
        self._taken |= 1 << -ahead
