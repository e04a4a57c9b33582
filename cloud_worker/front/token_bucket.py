"""A token bucket for each device, in milliseconds of the worker's event loop. Calls take `now` in seconds."""

from __future__ import annotations

from dataclasses import dataclass

_MOST = 4096
"""Devices of which one is kept. A broker with users knows no more names than it was given; one without has no end of
them, and then those are forgotten that have all that they may have."""


@dataclass(slots=True, eq=False)
class Account:
    """Token buckets of one device.

    Attributes:
        left: ms; below 0 if its last message cost more than there was.
        at: when that was counted.
        refused: messages that were not taken.
        tell_at: when the device may be told again.
        known: False once it is forgotten, and another one may be made for the device.
    """

    device: str
    left: float
    at: float
    refused: int = 0
    tell_at: float = 0.0
    known: bool = True


class Accounts:
    """All of them.

    Args:
        rate: ms that each gets back a second.
        burst: ms that each has at most.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def of(self, device: str, now: float) -> Account:
        """The account of a device, made full if there is none."""
        account = self._accounts.get(device)
        if account is None:
            if len(self._accounts) >= _MOST:
                self._forget(now)
            account = self._accounts[device] = Account(device, self._burst, now)
        return account

    def pays(self, account: Account, price: float, now: float) -> bool:
        """Take a price, if anything at all is left; it may be more than that."""
        left = account.left + (now - account.at) * self._rate
        account.left = min(self._burst, left)
        account.at = now
        if account.left <= 0.0:
            return False
        account.left -= price
        return True

    def charge(self, account: Account, price: float) -> None:
        """Take a price for what is done already; a negative one gives something back."""
        account.left = min(self._burst, account.left - price)

    def wait(self, account: Account) -> float:
        """Seconds from when it last paid until something is left again."""
        return max(0.0, -account.left) / self._rate

    def _forget(self, now: float) -> None:
        """Make room: of those that are full again, else the one that was made first."""
        full = [
            one.device
            for one in self._accounts.values()
            if one.left + (now - one.at) * self._rate >= self._burst
        ]
        for device in full or [next(iter(self._accounts))]:
            self._accounts.pop(device).known = False
