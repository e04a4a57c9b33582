"""A count of a day (UTC), which no restart forgets. A clock that is set back begins no new day."""

import logging
from pathlib import Path

from flexspec_mq import entropy
from flexspec_mq.daemon.dated import DAY, day
from flexspec_mq.daemon.files import whole

AGAIN = "ask again after 00:00 UTC"
"""Advice to whom a day's count stops."""
_log = logging.getLogger(__name__)


def next_day() -> int:
    """Seconds until the next day."""
    return DAY - int(entropy.wall()) % DAY


class DailyCount:
    """A count of whatever is used up in a day.

    The file is a hundredth of the bound ahead of the count, so that what a crash forgets is not used again.

    Args:
        most: bound of a day.
        file: has the count for the next start; None forgets it.
    """

    def __init__(self, most: int, file: Path | None) -> None:
        self.most, self._file = most, file
        self._day, self._count = "", 0
        if file is not None and file.exists():
            try:
                self._day, count = file.read_text("utf-8").split()
                self._count = int(count)
            except (OSError, ValueError) as error:
                _log.warning("what was used up earlier today is not known: %s: %s", file, error)
        self._saved = self._count

    @property
    def count(self) -> int:
        """Count of this day."""
        if (today := day(entropy.wall())) > self._day:
            self._day, self._count, self._saved = today, 0, 0
        return self._count

    @property
    def over(self) -> str:
        """The day whose bound is reached; empty as long as some is left."""
        return self._day if self.count >= self.most else ""

    def add(self, size: int) -> bool:
        """Count so many more; whether the bound is reached by these."""
        before = self.count
        self._count += size
        if self._count > self._saved:
            self.save(ahead=self.most // 100)
        return before < self.most <= self._count

    def save(self, ahead: int = 0) -> None:
        """Write the count down, and so many more."""
        self._saved = self.count + ahead
        if self._file is None:
            return
        try:
            with whole(self._file) as part:
                part.write_text(f"{self._day} {self._saved}\n", "utf-8")
        except OSError as error:
            _log.warning("a restart will forget what was used up today: %s", error)
