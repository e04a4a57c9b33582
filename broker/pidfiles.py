"""Remember which brokers `flexspec-broker run` runs, so that `stop` finds them and nothing else."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexspec_mq.daemon.children import started
from flexspec_mq.errors import BrokerError


def _directory() -> Path:
    path = Path(tempfile.gettempdir()) / f"flexspec-broker-{os.geteuid()}.run"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.geteuid():
        raise BrokerError(f"{path} belongs to somebody else", hint="remove it")
    return path


@contextmanager
def announced(port: int) -> Iterator[None]:
    """Leave a note for `stop` while this process runs a broker on `port`."""
    note = _directory() / f"{port}.json"
    note.write_text(json.dumps({"pid": os.getpid(), "started": started(os.getpid()), "port": port}))
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def stop(port: int | None, *, timeout: float = 10.0) -> list[int]:
    """End the broker on `port`, or all of this user's, and return their ports.

    Raises:
        BrokerError: none runs there, or one did not end in `timeout` seconds.
    """
    stopped = []
    for note in sorted(_directory().glob("*.json")):
        known = json.loads(note.read_text())
        pid, since = int(known["pid"]), int(known["started"])
        if port not in (None, known["port"]):
            continue
        if started(pid) != since:  # it crashed, and the number may be another process's by now
            note.unlink(missing_ok=True)
            continue
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + timeout
        while started(pid) == since:
            if time.monotonic() > deadline:
                raise BrokerError(f"the broker on port {known['port']} (process {pid}) does not end")
            time.sleep(0.02)
        stopped.append(int(known["port"]))
    if not stopped:
        where = "" if port is None else f" on port {port}"
        raise BrokerError(f"no broker started by `flexspec-broker run` runs{where}")
    return stopped
