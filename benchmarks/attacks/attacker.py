"""A malicious device, as a process of its own identity: `benchmarks.attacks` starts it.

    python -m benchmarks.attacks.attacker '{"port": 1883, "user": "mallory", …}'

It says one JSON line when it has begun. A line on its standard input ends it; then it says what it sent, and what it
was told.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from benchmarks.attacks.line import Line
from benchmarks.attacks.ways import WAYS, Share, Target
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from schemas.messages import Error, Verdict
from schemas.status import WorkerStatus

_CODEC = Codec()
TICK = 0.01
"""Seconds; the rate is kept over these."""


class Order(msgspec.Struct, frozen=True):
    """What is to be done.

    Attributes:
        way: its name.
        port: of the broker.
        user, password: of the device.
        worker, version: whom it is about.
        victim: an honest device.
        rate: bytes a second, headers of MQTT included.
    """

    way: str
    port: int
    user: str
    password: str
    worker: str
    version: str
    victim: str
    rate: float = 1e6


class Report(msgspec.Struct):
    """What came of it.

    Attributes:
        seconds: that it took.
        sent: bytes.
        told: answers by kind.
        detail: words of the newest error.
        retry: milliseconds that the newest error gave as a hint.
    """

    seconds: float = 0.0
    sent: int = 0
    told: dict[str, int] = msgspec.field(default_factory=dict)
    detail: str = ""
    retry: int = 0


def attack(order: Order, over: threading.Event) -> Report:
    """Do it until it is over."""
    report = Report()
    with Line(order.port, order.user, order.password) as line:
        line.subscribe(topics.worker_status_topic(order.worker))
        while not line.heard:
            line.listen(0.1)
        status = _CODEC.decode_status(line.heard.pop()[1], WorkerStatus)
        fingerprint = bytes.fromhex(status.fingerprint)
        way = WAYS[order.way](Target(order.user, order.worker, order.version, fingerprint, order.victim))
        line.subscribe(topics.verdict_topic(order.user))
        for topic_filter in way.filters if isinstance(way, Share) else ():
            line.subscribe(topic_filter)
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        began = at = time.monotonic()
        room = 0.0
        while not over.is_set():
            now = time.monotonic()
            room, at = min(order.rate / 2, room + (now - at) * order.rate), now
            for packet in way.packets(now) if room > 0 else ():
                line.send(packet)
                room -= len(packet)
                report.sent += len(packet)
                if room <= 0:
                    break
            line.listen(TICK)
            for topic, payload in line.heard:
                _hear(topic, payload, report, way.heard)
            line.heard.clear()
        report.seconds = time.monotonic() - began
        line.send(way.farewell())
        line.listen(0.2)
    return report


def _hear(topic: str, payload: bytes, report: Report, hear: Callable[[Verdict | Error], None]) -> None:
    told = report.told
    kind = topic.split("/")[1]
    if kind != "v":
        _count(told, f"on {kind}")
        return
    try:
        message = _CODEC.decode(payload)
    except RemoteProtocolError:
        _count(told, "unreadable")
        return
    if isinstance(message, Error):
        _count(told, message.code.name.lower())
        report.detail, report.retry = message.detail, message.retry
        hear(message)
    elif isinstance(message, Verdict):
        _count(told, "verdict")
        hear(message)


def _count(told: dict[str, int], kind: str) -> None:
    told[kind] = told.get(kind, 0) + 1


def _await_the_end(over: threading.Event) -> None:
    sys.stdin.readline()
    over.set()


def main() -> None:
    """Entry point."""
    os.nice(10)  # in life it computes elsewhere
    order = msgspec.json.decode(sys.argv[1], type=Order)
    over = threading.Event()
    threading.Thread(target=_await_the_end, args=(over,), daemon=True).start()
    report = attack(order, over)
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
