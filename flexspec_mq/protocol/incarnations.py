"""Which process of a name a status is of, without clocks.

Processes of one name follow each other, and their clocks may differ by days. They are told apart by `life`, which
each draws at random, and ordered by the broker: it hands on what is published on a topic in that order, and
publishes the will of a lost connection before it takes the next one of the same client. Only where a process comes
back under another client id, as after a new password, may the will of an earlier one come late. It names its own.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from schemas.status import EdgeStatus, WorkerStatus

_REMEMBERED = 8
"""Earlier processes of a name."""


class Incarnation(NamedTuple):
    """Number that tells a process from others of its name.

    Attributes:
        number: random.
        epoch: ms since the Unix epoch by its own clock; compared for equality only.
    """

    number: int
    epoch: int


def incarnation_of(status: WorkerStatus | EdgeStatus) -> Incarnation:
    """The process that a status is of."""
    return Incarnation(status.life, status.epoch)


class Incarnations:
    """The processes of one name, as their statuses come.

    Attributes:
        current: the one that speaks now; None before the first status.
        gone: true if it is over, or its connection is.
        over: incarnations that another took over from, the last one at the end.
    """

    __slots__ = ("current", "gone", "over")

    def __init__(self) -> None:
        self.current: Incarnation | None = None
        self.gone = False
        self.over: deque[Incarnation] = deque(maxlen=_REMEMBERED)

    def take(self, status: WorkerStatus | EdgeStatus, *, silent: bool = False) -> bool:
        """Take a status; tell whether it is news of the process that speaks now.

        Another process takes over with its first word, unless that says that it is gone: then it is the late will of
        an earlier one. A process that was taken over from is not heard while the one after it lives, so that two
        processes of one name do not take over from each other for ever.

        Args:
            status: a status of this name.
            silent: nothing was heard of the current process for so long that it counts as gone.
        """
        incarnation, gone = incarnation_of(status), status.state == "gone"
        if self.current is not None and incarnation != self.current:
            if gone or (incarnation in self.over and not (self.gone or silent)):
                return False
            self.over.append(self.current)
        self.current, self.gone = incarnation, gone
        return True
