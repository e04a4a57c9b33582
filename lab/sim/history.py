"""Record of what happened: what users were told and promised, what was done to machines, and which rule was broken."""

from __future__ import annotations

import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq import entropy
from flexspec_mq.errors import LinkError, WorkerError

if TYPE_CHECKING:
    from edge_node.outbox.entries import Entry
    from lab.sim.schedule import Ask


SLACK = 5.0
"""Seconds that an error may come later than the patience of its request."""


class Note(NamedTuple):
    """Something that happened at a time, in a lane: a device, a worker, the broker, a user."""

    at: float
    lane: str
    what: str


@dataclass
class Promise:
    """Record of what a user was told of one request.

    Attributes:
        number: number of the request.
        device: whom it was given to.
        text: the text that the target alone writes.
        key: idempotency key; empty without one.
        acknowledged: whether the device has taken it, since the last error that was told.
        shown: confirmed text that its user has seen.
        answered: when it was complete.
        failures: errors that its user was told, by time.
        read: whether the answer was read to its end.
        from_memory: whether it was told while the disk was full.
    """

    number: int
    device: str
    text: str
    key: str
    acknowledged: bool = False
    shown: str = ""
    answered: float | None = None
    failures: list[tuple[float, str]] = field(default_factory=list)
    read: bool = False
    from_memory: bool = False


class History:
    """Record of what happened in one run.

    Attributes:
        notes: lines, in order.
        promises: promises of all requests.
        damaged: devices whose disk broke its own promises.
        counts: faults and outcomes.
    """

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.promises: list[Promise] = []
        self.damaged: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._first: str | None = None

    def note(self, lane: str, what: str) -> None:
        """Note something."""
        self.notes.append(Note(entropy.now(), lane, what))

    def broken(self, rule: str) -> None:
        """Note that a rule is broken; the first one is told."""
        self.note("rules", rule)
        self._first = self._first or f"at {entropy.now():.3f} s: {rule}"

    @property
    def verdict(self) -> str:
        """The first broken rule; empty where all hold."""
        return self._first or ""

    def crashed(self, where: str, error: BaseException) -> None:
        """Note an exception that should not be."""
        last = traceback.extract_tb(error.__traceback__)[-1:]
        at = "".join(f" ({frame.filename.rpartition('/')[2]}:{frame.lineno})" for frame in last)
        self.broken(f"{where}: {error!r}{at}")

    def found(self, device: str, entries: dict[str, Entry]) -> None:
        """Check what an outbox has after a start against what was promised."""
        if device in self.damaged:
            return
        for promise in self.promises:
            if promise.device != device or not promise.key or not promise.acknowledged:
                continue
            entry = entries.get(promise.key)
            if entry is None and not promise.read:
                self.broken(f"request {promise.number}, which {device} has acknowledged, is lost")
            elif entry is not None and entry.finished is None and promise.read and not promise.from_memory:
                self.broken(f"the answer to request {promise.number} was told and is not on the disk")

    def patience(self, ask: Ask, heard: float, now: float, error: Exception) -> None:
        """Check that a request was neither given up too early nor too late."""
        if not isinstance(error, LinkError | WorkerError):
            return
        waited = now - heard
        if waited < ask.wait - 1.0 or waited > ask.wait + SLACK:
            self.broken(
                f"text {ask.number} was given up {waited:.1f} s after its last token, and waits {ask.wait:.0f} s: "
                f"{error}"
            )
