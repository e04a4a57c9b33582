"""A device's way to its worker that takes a constant time and loses nothing."""

from __future__ import annotations

from functools import partial

from flexspec_mq.protocol.effects import Send
from lab.simulator.clock import SimulatedClock
from lab.simulator.worker import VERSION, SimulatedWorker


class DirectChannel:
    """A `Channel` of equal ways.

    Args:
        clock: of the simulation.
        edge: the device's name.
        worker: it leads there.
        way: seconds of a message.
    """

    def __init__(self, clock: SimulatedClock, edge: str, worker: SimulatedWorker, way: float) -> None:
        self._clock = clock
        self._edge = edge
        self._worker = worker
        self._way = way

    def send(self, send: Send) -> None:
        """Publish a message of the device's machine."""
        version = VERSION if send.to_worker is None else None
        self._clock.at(self._way, partial(self._worker.receive, self._edge, send.message, send.qos, version))
