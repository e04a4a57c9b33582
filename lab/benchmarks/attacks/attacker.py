"""A malicious device, as a process of its own identity: `lab.benchmarks.attacks` starts it.

    python -m lab.benchmarks.attacks.attacker '{"port": 8883, "folder": "hand-out/edge/mallory", …}'

It says one JSON line when it has begun. A line on its standard input ends it; then it says what it sent, and what it
was told.
"""

import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from broker.deployment.bundles import IDENTITY, LOGIN
from broker.deployment.certificates import CA
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.documents import KeyRole
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import is_keyed, wanted_session
from flexspec_mq.keys.identity_file import read_identity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from lab.benchmarks.attacks.line import MqttLine
from lab.benchmarks.attacks.ways import WAYS, Target
from schemas.messages import Error, Verdict
from schemas.status import WorkerStatus

_CODEC = Codec()
TICK = 0.01
"""Seconds; the rate is kept over these."""
_AGAIN = 0.5
"""Seconds before it comes back where it was sent away."""
_PAUSE = 1.5
"""Seconds after which it is read again, whatever it did; what it holds would stay for as long as its lease."""


class AttackOrder(msgspec.Struct, frozen=True):
    """Task of an attacker.

    Attributes:
        way: name of the attack.
        port: port of the broker.
        folder: folder that the attacker was handed out, by its name.
        worker, version: whom it is about.
        victim: an honest device.
        rate: bytes a second, headers of MQTT included.
        messages: a second, where the broker counts them.
        seed: seed of all that is drawn at random.
    """

    way: str
    port: int
    folder: str
    worker: str
    version: str
    victim: str
    rate: float = 1e6
    messages: float = 1900.0
    seed: int = 0

    @property
    def user(self) -> str:
        """Name of the attacker."""
        return Path(self.folder).name

    @property
    def keys(self) -> EdgeKeys | None:
        """Keys of a device."""
        if WAYS[self.way].worker is not None:
            return None
        return EdgeKeys(read_identity(Path(self.folder) / IDENTITY, KeyRole.EDGE, self.user))

    def connected(self) -> MqttLine:
        """A connection of the attacker.

        Raises:
            ConnectionError: the broker let nobody in.
        """
        folder = Path(self.folder)
        return MqttLine(self.port, folder / CA, self.user, (folder / LOGIN).read_text("utf-8").strip())


class AttackReport(msgspec.Struct):
    """Outcome.

    Attributes:
        seconds: seconds that it took.
        sent: bytes.
        messages: number of them.
        told: answers by kind.
        hung_up: times that the broker ended the connection, or let nobody in.
    """

    seconds: float = 0.0
    sent: int = 0
    messages: int = 0
    told: dict[str, int] = msgspec.field(default_factory=dict)
    hung_up: int = 0


class Attack:
    """An attack that goes on until it is over, also where the broker ends the connection.

    Args:
        order: task of the attacker.
    """

    def __init__(self, order: AttackOrder) -> None:
        self.report = AttackReport()
        self._order = order
        way = WAYS[order.way]
        known = _look_around(order) if way.worker is None else b""  # a worker may not read others' statuses
        self._keys = order.keys
        target = Target(order.user, order.worker, order.version, known, order.victim, self._keys)
        self._way = way(target, order.seed)
        self._bytes = self._messages = 0.0
        self._at = time.monotonic()

    def run(self, over: threading.Event) -> None:
        """Do it."""
        began = time.monotonic()
        while not over.is_set():
            try:
                with self._connected() as line:
                    while not over.is_set():
                        self._send(line)
                        self._listen(line, TICK)
                    self.report.seconds = time.monotonic() - began
                    self._listen(line, _PAUSE)
                    line.send(b"".join(self._way.farewell()))
                    self._listen(line, 0.2)
                    return
            except OSError:
                self.report.hung_up += 1
                over.wait(_AGAIN)
        self.report.seconds = time.monotonic() - began

    def _connected(self) -> MqttLine:
        line = self._order.connected()
        line.subscribe(topics.worker_status_topic(self._order.worker))
        line.subscribe(topics.verdict_topic(self._order.user))
        return line

    def _send(self, line: MqttLine) -> None:
        now, order = time.monotonic(), self._order
        passed, self._at = now - self._at, now
        self._bytes = min(order.rate * self._way.burst, self._bytes + passed * order.rate)
        self._messages = min(order.messages * self._way.burst, self._messages + passed * order.messages)
        packets: list[bytes] = []
        for packet in self._way.packets(now) if self._may() else ():
            packets.append(packet)
            self._bytes -= len(packet)
            self._messages -= self._way.bounded
            if not self._may():
                break
        line.send(b"".join(packets))
        self.report.sent += sum(map(len, packets))
        self.report.messages += len(packets)

    def _may(self) -> bool:
        return self._bytes > 0 and self._messages > 0

    def _listen(self, line: MqttLine, seconds: float) -> None:
        line.listen(seconds)
        for topic, payload in line.heard:
            self._hear(topic, payload)
        line.heard.clear()

    def _hear(self, topic: str, payload: bytes) -> None:
        report, kind = self.report, topic.split("/")[1]
        if kind != "v":
            _count(report.told, f"on {kind}")
            return
        try:
            message = _CODEC.decode(self._opened(payload))
        except KeysRefused as error:
            _count(report.told, error.reason.value)
            return
        except RemoteProtocolError:
            _count(report.told, "unreadable")
            return
        if isinstance(message, Error):
            _count(report.told, message.code.name.lower())
            self._way.heard(message)
        elif isinstance(message, Verdict):
            _count(report.told, "verdict")
            self._way.heard(message)

    def _opened(self, payload: bytes) -> bytes:
        """An answer without its seal; what is of no session has none."""
        if self._keys is None or not is_keyed(payload):
            return payload
        if wanted_session(payload) is not None:
            raise KeysRefused(KeyReason.NO_KEY, "the worker wants the key")
        return self._keys.unwrap(payload, time.monotonic()).plain


def _look_around(order: AttackOrder) -> bytes:
    """Learn what any device may know: the fingerprint of the vocabulary."""
    with order.connected() as line:
        line.subscribe(topics.worker_status_topic(order.worker))
        while not line.heard:
            line.listen(0.1)
        status = _CODEC.decode_status(line.heard.pop()[1], WorkerStatus)
    return bytes.fromhex(status.fingerprint)


def _count(told: dict[str, int], kind: str) -> None:
    told[kind] = told.get(kind, 0) + 1


def _await_the_end(over: threading.Event) -> None:
    sys.stdin.readline()
    over.set()


def main() -> None:
    """Entry point."""
    # In life it computes elsewhere: here it has what others leave, and its rate says whether that was enough.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    order = msgspec.json.decode(sys.argv[1], type=AttackOrder)
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
