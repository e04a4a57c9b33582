"""Tokens of a day that a server reads and writes for a device: somebody may pay for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.daemon.daily import AGAIN, DailyCount
from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.errors import ServerRefused

if TYPE_CHECKING:
    from pathlib import Path

_DEVICES = 4096
"""Counts in memory; of others the file knows."""


class TokenBudget:
    """Counts tokens of each device and version.

    Args:
        most: tokens of a day that a device has of a version.
        folder: where the counts are kept, a file each.
    """

    def __init__(self, most: int, folder: Path) -> None:
        self._most, self._folder = most, folder
        self._counts = ExpiringMap[tuple[str, str], DailyCount](most=_DEVICES)

    def check(self, device: str, version: str) -> None:
        """See whether a device has tokens left.

        Raises:
            ServerRefused: it has none.
        """
        if day := self._of(device, version).over:
            raise ServerRefused(
                f"the {self._most} tokens of {version} that device {device} has on {day} are used up; {AGAIN}"
            )

    def spend(self, device: str, version: str, tokens: int) -> None:
        """Count tokens.

        Raises:
            ServerRefused: these were the last ones.
        """
        if self._of(device, version).add(tokens):
            self.check(device, version)

    def _of(self, device: str, version: str) -> DailyCount:
        found = self._counts.get((device, version), 0.0)
        if found is None:
            found = DailyCount(self._most, self._folder / f"{version}.{device}")
            self._counts.put((device, version), found, 0.0)
        return found
