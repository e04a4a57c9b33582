"""Writing what publishers retain to the disk at once, and telling them when it is there.

Mosquitto writes its database every few seconds, and a message that it has acknowledged before is lost if it is killed.
So a retained catalogue or key set has it write the database at once, which takes SIGUSR1, and whoever published it is
told on `topics.saved_topic`.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flexspec_mq import topics, waiting
from flexspec_mq.errors import BrokerError

_log = logging.getLogger(__name__)

_SIGNED = tuple(f", '{topic('')}".encode() for topic in (topics.catalogue_topic, topics.keys_topic))
_RETAINED = re.compile(
    rb"Received PUBLISH from (.*) \(d\d, q[12], r1, m\d+, '(f1/[hk]/[^']*)', \.\.\. \(\d+ bytes\)\)"
)
_MOST = 64
"""Messages that one writing may be told of."""
_REST = 4.0
"""Time from the end of a writing to the next, over what it took: while it writes, Mosquitto does nothing else."""


class Saving:
    """Has Mosquitto write its database, and tells of it.

    It is one thread that receives messages, writes and logs, in this order: a database that is newer than the line of
    a message has that message in it.

    Args:
        database: file that Mosquitto puts in place when it is whole.
        write: has it written.
        tell: publishes a line, retained, on `topics.saved_topic`.
    """

    def __init__(self, database: Path, write: Callable[[], None], tell: Callable[[bytes], None]) -> None:
        self._database = database
        self._write = write
        self._tell = tell
        self._lock = threading.Lock()
        self._new: list[bytes] = []
        self._written: list[bytes] = []
        self._before: tuple[int, int] | None = None
        self._began = self._free = -float(waiting.KEEPALIVE)

    def begin(self) -> None:
        """Tell publishers that this broker says what is on its disk."""
        self._tell(b"-")

    @property
    def busy(self) -> bool:
        """Whether something is to be written, or told of."""
        return bool(self._new or self._written)

    def line(self, line: bytes) -> bool:
        """Read a line that says that a message was taken, on any thread; whether that is to be written."""
        if any(part in line for part in _SIGNED) and (match := _RETAINED.fullmatch(line)):
            with self._lock:
                self._new = [*self._new[1 - _MOST :], topics.saved(match[2], match[1])]
            return True
        return False

    def look(self) -> None:
        """Begin a writing if there is something to write, and tell of one that has ended."""
        now = time.monotonic()
        if self._written and self._stamp() != self._before:
            self._free = now + max(4 * waiting.LOOK, _REST * (now - self._began))
            for message in self._written:
                try:
                    self._tell(message)
                except BrokerError as error:
                    _log.error("what was written to the disk is not told: %s", error)
            self._written = []
        if now < (self._began + waiting.KEEPALIVE if self._written else self._free):
            return
        with self._lock:
            new, self._new = self._new, []
        if new:
            self._written = [*self._written, *new][-_MOST:]
            self._before, self._began = self._stamp(), now
            self._write()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._database.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino
