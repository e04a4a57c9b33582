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
from benchmarks.attacks.ways import WAYS, Target
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from schemas.messages import Error, Verdict
from schemas.status import WorkerStatus

_CODEC = Codec()
TICK = 0.01
"""Seconds; the rate is kept over these."""
_AGAIN = 0.5
"""Seconds before it comes back where it was sent away."""


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
        hung_up: times that the broker ended the connection, or let nobody in.
    """

    seconds: float = 0.0
    sent: int = 0
    told: dict[str, int] = msgspec.field(default_factory=dict)
    detail: str = ""
    retry: int = 0
    hung_up: int = 0


class Attack:
    """An attack that goes on until it is over, also where the broker ends the connection.

    Args:
        order: what is to be done.
    """

    def __init__(self, order: Order) -> None:
        self.report = Report()
        self._order = order
        way = WAYS[order.way]
        known = _look_around(order) if way.worker is None else b""  # a worker may not read others' statuses
        self._way = way(Target(order.user, order.worker, order.version, known, order.victim))
        self._room = 0.0
        self._at = time.monotonic()

    def run(self, over: threading.Event) -> None:
        """Do it."""
        began = time.monotonic()
        while not over.is_set():
            try:
                with self._connected() as line:
                    while not over.is_set() and not self._way.twice:
                        self._send(line)
                        self._listen(line, TICK)
                    if not over.is_set():
                        self._again()
                        continue
                    self.report.seconds = time.monotonic() - began
                    line.send(self._way.farewell())
                    self._listen(line, 0.2)
                    return
            except OSError:
                self.report.hung_up += 1
                over.wait(_AGAIN)
        self.report.seconds = time.monotonic() - began

    def _connected(self) -> Line:
        line = Line(self._order.port, self._order.user, self._order.password)
        line.subscribe(topics.worker_status_topic(self._order.worker))
        line.subscribe(topics.verdict_topic(self._order.user))
        for topic_filter in self._way.filters:
            line.subscribe(topic_filter)
        return line

    def _again(self) -> None:
        """Take one's own place."""
        with self._connected() as line:
            self._listen(line, 0.0)
        _count(self.report.told, "connections")

    def _send(self, line: Line) -> None:
        now = time.monotonic()
        rate = self._order.rate
        self._room, self._at = min(rate / 2, self._room + (now - self._at) * rate), now
        for packet in self._way.packets(now) if self._room > 0 else ():
            line.send(packet)
            self._room -= len(packet)
            self.report.sent += len(packet)
            if self._room <= 0:
                return

    def _listen(self, line: Line, seconds: float) -> None:
        line.listen(seconds)
        for topic, payload in line.heard:
            _hear(topic, payload, self.report, self._way.heard)
        line.heard.clear()


def _look_around(order: Order) -> bytes:
    """Learn what any device may know: the fingerprint of the vocabulary."""
    with Line(order.port, order.user, order.password) as line:
        line.subscribe(topics.worker_status_topic(order.worker))
        while not line.heard:
            line.listen(0.1)
        status = _CODEC.decode_status(line.heard.pop()[1], WorkerStatus)
    return bytes.fromhex(status.fingerprint)


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
    attack = Attack(order)
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    attack.run(over)
    sys.stdout.write(msgspec.json.encode(attack.report).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
