"""Statuses of workers, which an edge node that serves an API hears every few seconds, text or no text."""

from __future__ import annotations

from flexspec_mq import topics
from flexspec_mq.codec import Codec
from lab.simulator.channel.mqtt import MqttChannel
from lab.simulator.clock import SimulatedClock
from lab.simulator.recording import Recording
from lab.simulator.worker import NAME, VERSION
from schemas.status import WorkerStatus

EVERY = 10.0
"""Seconds from one status of a worker to the next."""
_EPOCH = 1_764_000_000
"""Any time: numbers have as many digits."""


def begin_statuses(clock: SimulatedClock, channel: MqttChannel, recording: Recording, workers: int) -> None:
    """Have a channel carry statuses from now on, of so many workers in turn."""
    size, topic = status_size(recording), topics.worker_status_topic(NAME)

    def tell() -> None:
        channel.hear(topic, size)
        clock.at(EVERY, tell)

    for number in range(workers):
        clock.at(number * EVERY / workers, tell)


def status_size(recording: Recording) -> int:
    """Payload bytes of the status of a worker with a draft."""
    status = WorkerStatus(
        state="online",
        epoch=1000 * _EPOCH,
        at=_EPOCH + 0.123456,
        worker=NAME,
        version=VERSION,
        fingerprint=recording.fingerprint,
        exactness="exact",
        device="cpu",
        dtype="bfloat16",
        weights="native",
        load=1,
        capacity=64,
        lease=60,
        temperature=0.2,
        top_p=0.9,
        draft="default draft, ONNX Runtime",
        life=2**31,
    )
    return len(Codec().encode_status(status))
