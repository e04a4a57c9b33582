"""A text that a simulated device is writing."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexspec_mq.controller.explain import LimitReport
from flexspec_mq.protocol.edge.types import EdgeCounters
from lab.simulator.recording import RecordedText


@dataclass(slots=True)
class Written:
    """A text that is being written, or is over.

    Attributes:
        text: what was asked for.
        began: when, in seconds of the simulation.
        pieces: when tokens came, and how many.
        ended: when it was over.
        problem: why it is not what the target alone writes; empty if it is.
        counters: of the protocol.
        joules: that it took out of the device; None where nobody asked.
        limits: how those of its policy stood in the end.
    """

    text: RecordedText
    began: float
    pieces: list[tuple[float, int]] = field(default_factory=list)
    ended: float = 0.0
    problem: str = ""
    counters: EdgeCounters = field(default_factory=EdgeCounters)
    joules: float | None = None
    limits: tuple[LimitReport, ...] = ()

    @property
    def seconds(self) -> float:
        """From the asking to the last piece."""
        return self.pieces[-1][0] - self.began if self.pieces else 0.0

    @property
    def first(self) -> float:
        """Seconds to the first piece."""
        return self.pieces[0][0] - self.began if self.pieces else 0.0

    @property
    def tokens(self) -> int:
        """That came."""
        return sum(count for _, count in self.pieces)
