"""A modelled accelerator: what a forward costs where reading weights or computing rows is the limit."""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.simulator.cost import DraftForward, DraftTimes, TargetForward


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A modelled accelerator.

    Attributes:
        weights: of reading the target's weights once, which a forward takes at least.
        row: of computing one row, which a forward takes for each where that is more.
        session: of reading the keys and values of one session, on top.
        draft: what a forward of the draft beside the target costs, as a share of the target's over as many sessions
            with a row each.
        step: beside the forwards.
    """

    weights: float = 6.7
    row: float = 0.09
    session: float = 0.13
    draft: float = 0.15
    step: float = 0.0

    def forward(self, one: TargetForward) -> float:
        """The larger of reading the weights and computing the rows, and the sessions' keys and values."""
        return max(self.weights, (one.rows + one.read) * self.row) + one.sessions * self.session

    def slowed(self, one: TargetForward) -> float:  # noqa: ARG002  as of every `WorkerCost`
        """Not at all: devices compute elsewhere."""
        return 0.0

    def call(self, one: DraftForward) -> float:
        """A forward of the draft that gives each session one token."""
        return self.draft * self.forward(TargetForward(one.sessions, one.sessions, one.read))

    def gain(self, k: int) -> float:
        """What not drafting at the worker saves it, as throughput, where reading weights is the limit: 1 + K·c."""
        return 1.0 + k * self.draft


@dataclass(frozen=True, slots=True)
class Modelled:
    """A worker on an accelerator and its devices; these are `Times`.

    Attributes:
        worker: its accelerator.
        device: the draft of an edge; without a measurement 20 ms a token are assumed, and 2 ms a token of a prompt,
            as of a phone or a small board.
        request: what an edge spends on a request beside drafting, before it asks a worker.
        broker: of a message from device to worker or back, beside its link.
    """

    worker: Accelerator = field(default_factory=Accelerator)
    device: DraftTimes = field(default_factory=lambda: DraftTimes(token=20.0, read=2.0))
    request: float = 20.0
    broker: float = 0.25

    @property
    def step(self) -> float:
        """Beside the forwards."""
        return self.worker.step

    def forward(self, one: TargetForward) -> float:
        """A forward of the target."""
        return self.worker.forward(one)

    def slowed(self, one: TargetForward) -> float:
        """Not at all."""
        return self.worker.slowed(one)

    def call(self, one: DraftForward) -> float:
        """A forward of the draft beside the target."""
        return self.worker.call(one)
