"""A crowd of devices at one worker: closed and open loop, in simulated time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.capacity.strategies import Strategy
from lab.benchmarks.replay.crowds import WARM_UP, arrivals, order_of
from lab.benchmarks.replay.figures import TextRun
from lab.simulator.answers import Setting
from lab.simulator.channel.direct import DirectChannel
from lab.simulator.clock import SimulatedClock
from lab.simulator.cost import Times
from lab.simulator.device import SimulatedDevice
from lab.simulator.recording import RecordedText, Recording
from lab.simulator.simulation import new_device
from lab.simulator.worker import SimulatedWorker, WorkerKind
from lab.simulator.written import Written

_SPREAD = 0.5
"""Seconds within which clients begin."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is simulated.

    Attributes:
        recording: the texts.
        strategy: of the edges and the worker.
        times: of the worker's forwards and the devices' drafts.
        rtt_ms: round trip, the broker's part left out.
        seed: of all chance.
        reads: the worker reads prompts, and both sides look up, as daemons do. Otherwise prompts are read elsewhere.
    """

    recording: Recording
    strategy: Strategy
    times: Times
    rtt_ms: float
    seed: int
    reads: bool = False


class VirtualCrowd:
    """Devices and a worker.

    Args:
        place: what they are.

    Attributes:
        clock: of the simulation.
        worker: to read.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._setting = Setting(
            recording=place.recording,
            times=place.times,
            lookup=place.reads and place.strategy.lookup,
            worker=WorkerKind(rationed=place.strategy.rationed, lookup=place.reads, reads=place.reads),
            seed=place.seed,
        )
        self.clock = SimulatedClock()
        self._devices: dict[str, SimulatedDevice] = {}
        self._way = (place.rtt_ms / 2 + place.times.broker) / 1000
        self.worker = SimulatedWorker(
            self.clock,
            place.times,
            place.recording,
            self._setting.worker,
            lambda edge, message, _qos: self.clock.at(
                self._way, partial(self._devices[edge].receive, message)
            ),
        )

    def device(self, number: int) -> SimulatedDevice:
        """One more device."""
        policies = self._place.strategy.plan.new_policy
        made, _ = new_device(self.clock, self._setting, f"e{number}", policies)
        made.channel = DirectChannel(self.clock, made.name, self.worker, self._way)
        self._devices[made.name] = made
        return made

    def closed(self, clients: int, each: int) -> list[TextRun]:
        """Every client asks for its next text when one ends.

        Args:
            clients: how many.
            each: texts of each that count, after `WARM_UP` others. All go on writing until the last of these has
                ended, so that none has an emptier worker than the others.

        Returns:
            Those that count, and any other that is not what it should be.
        """
        rng = random.Random(f"{self._place.seed} begins")
        found: list[TextRun] = []
        stray: list[TextRun] = []
        wanted = clients * each

        def ended(
            device: SimulatedDevice, texts: Iterator[RecordedText], number: int, written: Written
        ) -> None:
            run = _run(device, written)
            if WARM_UP <= number < WARM_UP + each:
                found.append(run)
            elif run.problem:
                stray.append(run)
            if len(found) < wanted:
                device.write(next(texts), partial(ended, device, texts, number + 1))

        for client in range(clients):
            device = self.device(client)
            texts = order_of(self._place.recording.texts, self._place.seed, client)
            begin = partial(device.write, next(texts), partial(ended, device, texts, 0))
            self.clock.at(rng.uniform(0.0, _SPREAD), begin)
        self._until(found, wanted)
        return found + stray

    def open(self, rate: float, count: int) -> list[TextRun]:
        """Texts arrive whatever became of those before, at the device that was idle for longest, or at a new one.

        Args:
            rate: texts per second.
            count: of texts, of which the first tenth does not count.
        """
        found: list[TextRun] = []
        later: list[TextRun] = []
        idle: deque[SimulatedDevice] = deque()
        texts = order_of(self._place.recording.texts, self._place.seed, 0)

        def ended(device: SimulatedDevice, number: int, written: Written) -> None:
            run = _run(device, written)
            idle.append(device)
            found.append(run)
            if run.problem or number >= count // 10:
                later.append(run)

        def arrives(number: int, text: RecordedText) -> None:
            device = idle.popleft() if idle else self.device(len(self._devices))
            device.write(text, partial(ended, device, number))

        for number, at in enumerate(arrivals(rate, count, self._place.seed)):
            self.clock.at(at, partial(arrives, number, next(texts)))
        self._until(found, count)
        return later

    def _until(self, found: list[TextRun], wanted: int) -> None:
        while len(found) < wanted:
            if not self.clock.step():
                raise FlexSpecError(f"{len(found)} of {wanted} texts ended, and nothing more happens")

    def worker_figures(self) -> dict[str, Any]:
        """What the worker did, all in all."""
        worker, counters = self.worker.figures, self.worker.machine.counters
        return {
            "steps": worker.steps,
            "busy": worker.busy / max(1e-9, self.clock.now),
            "sessions_per_step": worker.sessions / max(1, worker.steps),
            "rows_per_step": worker.rows / max(1, worker.steps),
            "calls_per_step": worker.calls / max(1, worker.steps),
            "rows_per_token": worker.rows / max(1, counters.decided),
            "decided": counters.decided,
            "accepted": counters.accepted,
            "worker_accepted": counters.worker_accepted,
        }


def _run(device: SimulatedDevice, written: Written) -> TextRun:
    client = int(device.name.removeprefix("e"))
    return TextRun(client, written.began, tuple(written.pieces), written.problem, written.counters.proposed)
