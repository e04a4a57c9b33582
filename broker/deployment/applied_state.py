"""The state of a deployment that its running broker has applied, as commands see it."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from broker.files import private_folder, read_text, rewrite_private
from flexspec_mq import waiting
from flexspec_mq.errors import BrokerError

RUN = "run"
_RUNNING, _APPLIED = "running.lock", "applied"


class AppliedState:
    """Which revision of a deployment its running broker has applied, and whether one runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._applied = directory / RUN / _APPLIED

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run its broker inside the block, and nobody else.

        Raises:
            BrokerError: somebody else does.
        """
        private_folder(self._directory / RUN)
        with (self._directory / _RUNNING).open("ab") as file:
            end = time.monotonic() + 2 * waiting.LOOK
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() > end:
                    raise BrokerError(
                        f"a broker runs from {self._directory} already",
                        hint="end it first: one folder has one broker",
                    )
                time.sleep(0.05)
            self._applied.unlink(missing_ok=True)
            yield

    def note(self, revision: int) -> None:
        """Note that the running broker has taken up a revision."""
        rewrite_private(self._applied, f"{revision}\n")

    def wait_for(self, revision: int) -> bool:
        """Wait until a running broker has taken a revision up; False if none runs.

        Raises:
            BrokerError: it has not within ten seconds.
        """
        end = time.monotonic() + 2 * waiting.CONNECT
        while self._is_running():
            if self._applied.exists() and int(read_text(self._applied)) >= revision:
                return True
            if time.monotonic() > end:
                raise BrokerError(
                    f"the broker that runs has not taken up the change within {2 * waiting.CONNECT:g} s",
                    hint="restart it; look into its log",
                )
            time.sleep(0.05)
        return False

    def _is_running(self) -> bool:
        path = self._directory / _RUNNING
        if not path.exists():
            return False
        with path.open("ab") as file:
            return not _locked(file, fcntl.LOCK_SH)


def _locked(file: IO[bytes], how: int) -> bool:
    """Lock a file unless somebody else has; tells whether it is locked now."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
