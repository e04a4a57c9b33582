"""What keys cost: bytes of a round and its time, with TLS, tags and seals, each alone and together.

Rounds from draft to verdict (K = 8 up, 9 tokens down) through two Mosquittos on loopback, one with TLS, with a model
that takes no time; edge and worker share one process and event loop. All cases are measured in turns in one run. IP
bytes are captured on the loopback interface, TCP acknowledgements and headers included, with rounds spaced so that no
acknowledgement can ride on the next packet, as over a real distance.

Then what opening a session takes: bytes of the open and of the hello, and processor time of both agreements.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, cast

from broker.deployment.certificates import make_certificates
from broker.launcher import PrivateBroker
from broker.settings import BrokerSettings
from flexspec_mq.codec import Codec
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.worker import WorkerKeys
from flexspec_mq.topics import draft_filter, draft_topic, verdict_topic
from flexspec_mq.transport.base import Inbound, Link, LinkSettings, Subscription, TlsSettings
from flexspec_mq.transport.mqtt import MqttLink, mqtt_link
from lab.benchmarks._common import finish, parser, percentile, table
from lab.benchmarks.parts.capture import captured
from lab.benchmarks.parts.keyed import Identities
from lab.benchmarks.transport import BLOCK, EXPIRY, SPACING, draft_message, next_message, verdict_for
from schemas.messages import Draft, Fin, Identity, Open, Verdict

_CODEC = Codec()
_VERSION = "base"
_IDENTITY = Identity(1, bytes(range(16)), 0.7, 40, 0.95, 2**40, (2,), False, 256)
_PROMPT = tuple(range(1000, 1040))
_MODES: dict[str, bool | None] = {"nothing": None, "tags": False, "seals": True}
"""What a case is called: whether messages are sealed; None is without keys."""
_LEVELS = (0, 1)


class Coding:
    """Both ends of one session, with or without keys.

    Args:
        seal: None is without keys.
        edge, worker: names on topics.
        session: its number.
    """

    def __init__(self, seal: bool | None, edge: str, worker: str, session: int) -> None:
        self.edge, self.worker, self.session = edge, worker, session
        self.opened: tuple[int, int] = (0, 0)
        self.keys: tuple[EdgeKeys, WorkerKeys] | None = None
        if seal is not None:
            made = Identities()
            self.keys = (
                EdgeKeys(made.edge(edge), seal=seal),
                WorkerKeys(made.worker(worker), lease=3600, capacity=64),
            )
        self.open(session)

    def open(self, session: int) -> None:
        """Open a session at the worker; notes the bytes of open and hello."""
        message = Open(session, 1, _IDENTITY, _PROMPT, (), 8, 1, ())
        hello = Verdict(session, 1, 0, 0, (), 7, Fin.NONE, 0, 0, self.worker, 60)
        up, down = _CODEC.encode(message), _CODEC.encode(hello)
        if self.keys is not None:
            device, serving = self.keys
            device.begin(session, _VERSION)
            up = device.wrap(message, None, up, 0.0)
            serving.unwrap(self.edge, _VERSION, up, 0.0)
            down = serving.wrap(self.edge, session, down, 0.0)
            device.unwrap(down, 0.0)
        self.opened = len(up), len(down)

    def up(self, draft: Draft) -> bytes:
        """Payload of a draft."""
        plain = _CODEC.encode(draft)
        return plain if self.keys is None else self.keys[0].wrap(draft, self.worker, plain, 0.0)

    def drafted(self, payload: bytes) -> Draft:
        """The draft in a payload."""
        plain = payload if self.keys is None else self.keys[1].unwrap(self.edge, None, payload, 0.0).plain
        return cast("Draft", _CODEC.decode(plain))

    def down(self, verdict: Verdict) -> bytes:
        """Payload of a verdict."""
        plain = _CODEC.encode(verdict)
        return plain if self.keys is None else self.keys[1].wrap(self.edge, self.session, plain, 0.0)

    def decided(self, payload: bytes) -> Verdict:
        """The verdict in a payload."""
        plain = payload if self.keys is None else self.keys[0].unwrap(payload, 0.0).plain
        return cast("Verdict", _CODEC.decode(plain))


class Case:
    """A device's and a worker's link to one broker, and one session at their ends."""

    def __init__(self, coding: Coding, edge: Link, worker: Link, port: int, rng: random.Random) -> None:
        self.coding = coding
        self._edge, self._worker, self._port, self._rng = edge, worker, port, rng
        self._qos, self._spacing, self._seq = 0, 0.0, 0

    async def serve(self) -> None:
        """Answer drafts with verdicts."""
        topic = verdict_topic(self.coding.edge)
        async for event in self._worker.events():
            if isinstance(event, Inbound):
                draft = self.coding.drafted(event.payload)
                if self._spacing:
                    await asyncio.sleep(self._spacing)
                await self._worker.publish(topic, self.coding.down(verdict_for(draft)), qos=self._qos)

    async def block(self, qos: int, rounds: int) -> list[float]:
        """Seconds of each round."""
        self._qos = qos
        coding, times = self.coding, []
        topic = draft_topic(coding.worker, coding.edge)
        for _ in range(rounds):
            self._seq += 1
            drawn = draft_message(self._seq, self._rng)
            draft = Draft(coding.session, 1, self._seq, drawn.have, 0, drawn.digest, drawn.tokens, 0)
            start = time.perf_counter()
            await self._edge.publish(topic, coding.up(draft), qos=qos, expiry=EXPIRY)
            verdict = coding.decided((await next_message(self._edge)).payload)
            times.append(time.perf_counter() - start)
            if verdict.echo != self._seq:
                raise RuntimeError(f"the verdict for {self._seq} is {verdict}")
        return times

    async def ip_bytes(self, qos: int, rounds: int) -> tuple[float, float]:
        """IP bytes of a round, up and down.

        Raises:
            PermissionError: capturing needs root.
        """
        self._spacing = SPACING
        connection = cast("MqttLink", self._edge)._connection  # noqa: SLF001  its port is of no use to others
        if connection is None or connection._socket is None:  # noqa: SLF001
            raise RuntimeError("the edge's link is down")
        with captured(connection._socket.getsockname()[1], self._port) as traffic:  # noqa: SLF001
            for _ in range(rounds):
                await self.block(qos, 1)
                await asyncio.sleep(SPACING)
        self._spacing = 0.0
        return traffic.up_bytes / rounds, traffic.down_bytes / rounds


async def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each case and quality of service."""
    rng = random.Random(options.seed)
    cases: dict[str, Case] = {}
    async with AsyncExitStack() as stack:
        for secured in (False, True):
            tls = make_certificates(folder, ["localhost"]) if secured else None
            broker = stack.enter_context(PrivateBroker(BrokerSettings(port=0, tls=tls)))
            trust = None if tls is None else TlsSettings(ca=tls.ca)
            for number, (mode, seal) in enumerate(_MODES.items()):
                coding = Coding(seal, f"edge0{number}", f"wk0{number}", rng.getrandbits(32))
                edge, worker = [
                    await stack.enter_async_context(mqtt_link(_link(name, topic, broker.port, trust)))
                    for name, topic in (
                        (coding.edge, verdict_topic(coding.edge)),
                        (coding.worker, draft_filter(coding.worker)),
                    )
                ]
                await edge.wait_up(10)
                await worker.wait_up(10)
                case = Case(coding, edge, worker, broker.port, rng)
                cases[f"{'TLS, ' if secured else ''}{mode}"] = case
                stack.callback(asyncio.create_task(case.serve()).cancel)
        return await _in_turns(cases, options, rng)


def _link(name: str, topic: str, port: int, tls: TlsSettings | None) -> LinkSettings:
    host = "127.0.0.1" if tls is None else "localhost"
    subscriptions = (Subscription(topic, 2),)
    return LinkSettings(host=host, port=port, client_id=name, tls=tls, subscriptions=subscriptions)


async def _in_turns(
    cases: dict[str, Case], options: argparse.Namespace, rng: random.Random
) -> list[dict[str, Any]]:
    keys = [(name, qos) for qos in _LEVELS for name in cases]
    times: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for name, qos in keys:
        await cases[name].block(qos, 2 * BLOCK)  # warm up; then a counter has two bytes, as in most of a text
    for _ in range(4 if options.quick else 30):
        for name, qos in rng.sample(keys, len(keys)):
            times[name, qos] += await cases[name].block(qos, BLOCK)
    rows = []
    for name, qos in keys:
        try:
            up, down = await cases[name].ip_bytes(qos, 10 if options.quick else 50)
        except PermissionError:
            up = down = float("nan")
        p50 = percentile(times[name, qos], 0.5)
        rows.append(
            {
                "case": name,
                "qos": qos,
                "ip_up": up,
                "ip_down": down,
                "p50_ms": 1e3 * p50,
                "p95_ms": 1e3 * percentile(times[name, qos], 0.95),
                "of_nothing": p50 / percentile(times["nothing", qos], 0.5),
                "of_same_link": p50
                / percentile(times[f"{name.rpartition(' ')[0]} nothing".strip(), qos], 0.5),
                "rounds": len(times[name, qos]),
            }
        )
    return rows


def opening(options: argparse.Namespace) -> dict[str, Any]:
    """Bytes of open and hello, and µs of a session's opening and of a round's messages, both ends together."""
    found: dict[str, Any] = {}
    for mode, seal in _MODES.items():
        coding = Coding(seal, "edge00", "wk00", 1)
        rng = random.Random(options.seed)
        drafts = [draft_message(seq, rng) for seq in range(200)]
        drafts = [Draft(1, 1, one.seq, one.have, 0, one.digest, one.tokens, 0) for one in drafts]

        def messages(coding: Coding = coding, drafts: list[Draft] = drafts) -> None:
            for draft in drafts:
                coding.decided(coding.down(verdict_for(coding.drafted(coding.up(draft)))))

        round_us = _microseconds(messages, 10) / len(drafts)
        numbers = count(2)

        def another(coding: Coding = coding, numbers: Iterator[int] = numbers) -> None:
            coding.open(next(numbers))

        open_us = _microseconds(another, 300)
        found[mode] = {
            "open": coding.opened[0],
            "hello": coding.opened[1],
            "open_us": open_us,
            "round_us": round_us,
        }
    return found


def _microseconds(work: Callable[[], object], times: int) -> float:
    """Of processor time, in the median."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1e6 * median(taken)


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = asyncio.run(measure(options, Path(folder)))
    fields = ("case", "qos", "ip_up", "ip_down", "p50_ms", "p95_ms", "of_nothing", "of_same_link")
    titles = ("case", "QoS", "IP bytes up", "down", "p50 ms", "p95 ms", "of nothing", "of the same link's")
    print(table(titles, [[row[one] for one in fields] for row in rows]))
    opened = opening(options)
    print()
    print(
        table(
            ("a session with", "open, bytes", "hello, bytes", "opening, µs", "round, µs"),
            [[mode, *figures.values()] for mode, figures in opened.items()],
        )
    )
    finish("keys_price", {"rounds": rows, "opening": opened}, quick=options.quick)


if __name__ == "__main__":
    main()
