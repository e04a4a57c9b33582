"""Cost of the transport: a draft → verdict round through Mosquitto on loopback, with a model that takes no time.

Cases in the same run, in turns, at QoS 0: our link with our codec (K = 8 up, 9 tokens down), the same over TLS with
the access rules of a deployment that `flexspec-broker init` made, under keys there, and padded as well, as daemons do.
Edge and worker share one process and event loop.

IP bytes are those of the edge's connection, TCP acknowledgements and headers included, with rounds spaced so that no
acknowledgement can ride on the next packet, as over a real distance.

``--site`` measures rounds at both qualities of service through a site's broker instead, in turns with those of the same
device that connects to the central one.

``--idle SECONDS`` measures an edge node instead that writes nothing, beside workers whose statuses it could follow.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from broker.deployment.bundles import IDENTITY, LOGIN
from broker.deployment.certificates import CA
from broker.deployment.folder import Deployment
from broker.launcher import PrivateBroker
from broker.settings import Role
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq import topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.keys import envelope
from flexspec_mq.keys.documents import KeyRole
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.identity_file import read_identity
from flexspec_mq.keys.worker import WorkerKeys
from flexspec_mq.topics import draft_filter, draft_topic, verdict_topic
from flexspec_mq.transport.arguments import LinkOptions, link_settings
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks._common import finish, parser, percentile, say, table
from lab.testbed.packet_counter import PacketCounter, packet_counter
from lab.testbed.secured import VERSION, WORKER, secured_deployment
from schemas.messages import Draft, Fin, Identity, Open, PartialSampling, Sampling, Verdict
from schemas.status import TokenizerStatus, WorkerStatus

EDGE = "edge01"
SESSION = 0xCAFEBABE
BUCKET = envelope.bucket
K = 8
PROMPT = 200
WORKERS = 10
BLOCK = 50
EXPIRY = 2.0
SPACING = 0.06
DAY = 86_400


def draft_message(seq: int, rng: random.Random) -> Draft:
    """A draft of K tokens, ids as spread as in SmolLM2's vocabulary."""
    tokens = tuple(rng.randrange(49_152) for _ in range(K))
    return Draft(SESSION, 1, seq, 100 + seq % 100, 0, rng.getrandbits(32), tokens, 0)


def verdict_for(draft: Draft) -> Verdict:
    """All accepted, and one more."""
    tokens = (*draft.tokens, 7)
    return Verdict(
        draft.session, draft.attempt, draft.seq, draft.start, tokens, draft.digest, Fin.NONE, 2, 50
    )


class Wire:
    """Messages to payloads and back, at both ends."""

    def __init__(self) -> None:
        self._codec = Codec()

    def up(self, message: Open | Draft) -> bytes:
        """A payload of the device."""
        return self._codec.encode(message)

    def arrives(self, payload: bytes) -> Draft:
        """Read it at the worker."""
        message = self._codec.decode(payload)
        assert isinstance(message, Draft)
        return message

    def down(self, message: Verdict) -> bytes:
        """A payload of the worker."""
        return self._codec.encode(message)

    def comes_back(self, payload: bytes) -> Verdict:
        """Read it at the device."""
        message = self._codec.decode(payload)
        assert isinstance(message, Verdict)
        return message


class KeyedWire(Wire):
    """The same under the keys of a session, which begins here; where it is not padded, but for its end byte."""

    def __init__(self, edge: EdgeKeys, worker: WorkerKeys, *, padded: bool) -> None:
        super().__init__()
        self._codec = Codec(compresses=False)
        self._edge, self._worker, self._padded = edge, worker, padded
        edge.begin(SESSION, VERSION)
        opened = Open(SESSION, 1, Identity(2, bytes(16), Sampling(seed=1), (), True, 64), (1,), (), 0, 1, ())
        worker.unwrap(EDGE, VERSION, self.up(opened), 0.0)
        self.comes_back(self.down(verdict_for(Draft(SESSION, 1, 1, 0, 0, 0, (), 0))))

    def up(self, message: Open | Draft) -> bytes:  # noqa: D102  as of the base
        vars(envelope)["bucket"] = BUCKET if self._padded else int  # for both sides, until another wire sends
        to = WORKER if isinstance(message, Draft) else None
        return self._edge.wrap(message, to, super().up(message), 0.0)

    def arrives(self, payload: bytes) -> Draft:  # noqa: D102
        return super().arrives(self._worker.unwrap(EDGE, None, payload, 0.0)[0])

    def down(self, message: Verdict) -> bytes:  # noqa: D102
        return self._worker.wrap(EDGE, SESSION, super().down(message), 0.0)

    def comes_back(self, payload: bytes) -> Verdict:  # noqa: D102
        return super().comes_back(self._edge.unwrap(payload, 0.0).plain)


async def next_message(link: Link) -> Inbound:
    """The next message of a link."""
    async for event in link.events():
        if isinstance(event, Inbound):
            return event
    raise RuntimeError("the link ended")


async def serve_link(link: Link, spacing: list[float], wire: list[Wire]) -> None:
    """Answer drafts with verdicts; the lists hold the current values."""
    async for event in link.events():
        if isinstance(event, Inbound):
            draft = wire[0].arrives(event.payload)
            if spacing[0]:
                await asyncio.sleep(spacing[0])
            await link.publish(verdict_topic(EDGE), wire[0].down(verdict_for(draft)), qos=event.qos)


class LinkCase:
    """Our link, and a wire, which the worker that answers is told of."""

    def __init__(self, edge: Link, wires: list[Wire], wire: Wire, rng: random.Random, qos: int = 0) -> None:
        self._edge, self._wires, self._wire, self._rng, self._qos = edge, wires, wire, rng, qos
        self._seq = 0

    async def block(self, rounds: int) -> list[float]:
        """Seconds of each round."""
        self._wires[0] = self._wire
        times = []
        for _ in range(rounds):
            self._seq += 1
            draft = draft_message(self._seq, self._rng)
            start = time.perf_counter()
            up = self._wire.up(draft)
            await self._edge.publish(draft_topic(WORKER, EDGE), up, expiry=EXPIRY, qos=self._qos)
            verdict = self._wire.comes_back((await next_message(self._edge)).payload)
            times.append(time.perf_counter() - start)
            if verdict.echo != self._seq:
                raise RuntimeError(f"the verdict for {self._seq} is {verdict}")
        return times


def sizes(wire: Wire, rng: random.Random) -> dict[str, int]:
    """Payload bytes of a first open, a draft and its verdict."""
    prompt = tuple(rng.randrange(49_152) for _ in range(PROMPT))
    opened = Open(
        SESSION, 1, Identity(2, bytes(16), Sampling(0.7, 40, 0.95, 1), (2,), False, 256), prompt, (), 0, 1, ()
    )
    opening, drafted = wire.up(opened), wire.up(draft_message(1, rng))
    verdict = wire.down(verdict_for(wire.arrives(drafted)))
    return {"open": len(opening), "draft": len(drafted), "verdict": len(verdict)}


def keyed_wire(folder: Path, *, padded: bool) -> Wire:
    """A wire with what a deployment handed out to a device and a worker."""
    bundles = Deployment(folder).bundles
    edge = read_identity(bundles.folder(Role.EDGE, EDGE) / IDENTITY, KeyRole.EDGE, EDGE)
    worker = read_identity(bundles.folder(Role.WORKER, WORKER) / IDENTITY, KeyRole.WORKER, WORKER)
    return KeyedWire(EdgeKeys(edge), WorkerKeys(worker, lease=60, capacity=8), padded=padded)


def reach(folder: Path, role: Role, name: str, port: int, *subscriptions: Subscription) -> LinkSettings:
    """Settings of a link with what a deployment handed out."""
    bundle = Deployment(folder).bundles.folder(role, name)
    at = LinkOptions(
        broker=f"127.0.0.1:{port}", username=name, password_file=bundle / LOGIN, tls_ca=bundle / CA
    )
    settings = link_settings(at, f"{'e' if role is Role.EDGE else 'w'}-{name}")
    return dataclasses.replace(settings, subscriptions=subscriptions)


@asynccontextmanager
async def up(settings: LinkSettings) -> AsyncIterator[Link]:
    """A link that is up."""
    async with mqtt_link(settings) as link:
        await link.wait_up(10)
        yield link


async def measure(options: argparse.Namespace, plain: int, folder: Path, secured: int) -> dict[str, Any]:
    """Run all cases against the brokers on two ports; the second one is that of the deployment in `folder`."""
    rng = random.Random(options.seed)
    spacing = [0.0]
    wires = {
        "link + codec": (False, Wire()),
        "with TLS": (True, Wire()),
        "with TLS, keys": (True, keyed_wire(folder, padded=False)),
        "with TLS, keys, padding": (True, keyed_wire(folder, padded=True)),
    }
    current = [wires["link + codec"][1]]
    answers, drafts = Subscription(verdict_topic(EDGE), 2), Subscription(draft_filter(WORKER), 2)

    def edge_settings(port: int, *, secured: bool) -> LinkSettings:
        if secured:
            return reach(folder, Role.EDGE, EDGE, port, answers)
        return LinkSettings(port=port, client_id="e", subscriptions=(answers,))

    payloads: list[dict[str, Any]] = [{"case": name, **sizes(wire, rng)} for name, (_, wire) in wires.items()]
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(up(at))
            for at in (
                LinkSettings(port=plain, client_id="w", subscriptions=(drafts,)),
                reach(folder, Role.WORKER, WORKER, secured, drafts),
            )
        ]
        serving = [asyncio.create_task(serve_link(link, spacing, current)) for link in workers]
        async with AsyncExitStack() as timed:
            links = {
                tls: await timed.enter_async_context(
                    up(edge_settings(secured if tls else plain, secured=tls))
                )
                for tls in (False, True)
            }
            cases = {name: LinkCase(links[tls], current, wire, rng) for name, (tls, wire) in wires.items()}
            rows = await rounds_in_turns(cases, 4 if options.quick else 20, rng)
        spacing[0] = SPACING
        wire_rows = []
        for tls, port in ((False, plain), (True, secured)):
            counter = await stack.enter_async_context(packet_counter(port))
            async with up(edge_settings(counter.port, secured=tls)) as counted:
                for name, (wants, wire) in wires.items():
                    if wants is tls:
                        case = LinkCase(counted, current, wire, rng)
                        found = await bytes_per_round(case, counter, 10 if options.quick else 50)
                        wire_rows.append({"case": name, **found})
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
    return {"payload_bytes": payloads, "rounds": rows, "ip_bytes": wire_rows}


async def through_site(options: argparse.Namespace, folder: Path, ports: dict[str, int]) -> dict[str, Any]:
    """Rounds of a device whose link goes to each of the brokers in turns."""
    rng, current = random.Random(options.seed), [Wire()]
    times: dict[tuple[str, int], list[float]] = {}
    drafts, answers = Subscription(draft_filter(WORKER), 2), Subscription(verdict_topic(EDGE), 2)
    async with up(reach(folder, Role.WORKER, WORKER, ports["central"], drafts)) as worker:
        serving = asyncio.create_task(serve_link(worker, [0.0], current))
        for _ in range(2 if options.quick else 10):
            for name, port in ports.items():
                async with up(reach(folder, Role.EDGE, EDGE, port, answers)) as link:
                    for qos in (0, 1):
                        case = LinkCase(link, current, current[0], rng, qos)
                        times.setdefault((name, qos), []).extend(await case.block(BLOCK))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    return {
        "rounds": [
            {
                "broker": name,
                "qos": qos,
                "p50_ms": percentile(each, 0.5) * 1e3,
                "p95_ms": percentile(each, 0.95) * 1e3,
            }
            for (name, qos), each in times.items()
        ]
    }


async def idle(options: argparse.Namespace, folder: Path, port: int, names: Sequence[str]) -> dict[str, Any]:
    """Bytes of a day of an edge node that writes nothing, as of some seconds after it came to rest."""
    bundle = Deployment(folder).bundles.folder(Role.EDGE, EDGE)
    settings = EdgeSettings(edge=EDGE, version=VERSION, keys=bundle / IDENTITY)
    node = EdgeNode(settings, None, bytes(16), (2,))
    async with AsyncExitStack() as stack:
        for name in names:
            link = await stack.enter_async_context(up(reach(folder, Role.WORKER, name, port)))
            telling = asyncio.create_task(tell_statuses(link, folder, name))
            stack.callback(telling.cancel)
        counter = await stack.enter_async_context(packet_counter(port))
        base = reach(folder, Role.EDGE, EDGE, counter.port)
        await stack.enter_async_context(node.running(mqtt_link, base))
        began = counter.carried()
        await asyncio.sleep(waiting.STATUS + 1)
        awake = counter.carried().since(began)
        say(f"{len(node.directory.online())} workers are known")
        await asyncio.sleep(3 * waiting.STATUS)
        before, since = counter.carried(), time.monotonic()
        await asyncio.sleep(options.idle)
        carried, seconds = counter.carried().since(before), time.monotonic() - since
    day = DAY / seconds * (carried.ip_up + carried.ip_down)
    return {
        "workers": len(names),
        "first_ip_bytes": awake.ip_up + awake.ip_down,
        "seconds": seconds,
        "up": carried.ip_up,
        "down": carried.ip_down,
        "mb_a_day": day / 1e6,
    }


async def tell_statuses(link: Link, folder: Path, name: str) -> None:
    """Say for ever what a worker says of itself, with its signature."""
    bundle = Deployment(folder).bundles.folder(Role.WORKER, name)
    keys = WorkerKeys(read_identity(bundle / IDENTITY, KeyRole.WORKER, name), lease=60, capacity=8)
    while True:
        status = WorkerStatus(
            state="online",
            epoch=time.time_ns() // 1_000_000,
            at=time.time(),
            worker=name,
            version=VERSION,
            fingerprint=bytes(16).hex(),
            exactness="exact",
            device="cpu",
            dtype="bfloat16",
            weights="native",
            load=3,
            capacity=16,
            lease=60,
            recommended=PartialSampling(0.2, top_p=0.9),
            draft="flexspec-draft",
            life=1,
            credential=keys.status_credential,
            tokenizer=TokenizerStatus(tokens=49_152, vocabulary=bytes(16).hex(), eos=(2,), rows=49_152),
            forward_ms=41.37,
            row_ms=0.52,
            draft_ms=3.14,
        )
        payload = keys.signed_status(Codec().encode_status(status))
        await link.publish(topics.worker_status_topic(name), payload, qos=1, retain=True)
        await asyncio.sleep(waiting.STATUS)


async def rounds_in_turns(
    cases: dict[str, LinkCase], blocks: int, rng: random.Random
) -> list[dict[str, Any]]:
    """Measure each case, block by block in random order."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        await case.block(BLOCK)  # warm up
    for _ in range(blocks):
        for name in rng.sample(list(cases), len(cases)):
            times[name] += await cases[name].block(BLOCK)
    first, *_ = (percentile(values, 0.5) for values in times.values())
    return [
        {
            "case": name,
            "p50_ms": percentile(values, 0.5) * 1e3,
            "p95_ms": percentile(values, 0.95) * 1e3,
            "of_first": percentile(values, 0.5) / first,
        }
        for name, values in times.items()
    ]


async def bytes_per_round(case: LinkCase, counter: PacketCounter, rounds: int) -> dict[str, float]:
    """IP bytes between edge and broker per round."""
    before = counter.carried()
    for _ in range(rounds):
        await case.block(1)
        await asyncio.sleep(SPACING)
    carried = counter.carried().since(before)
    return {"up": carried.ip_up / rounds, "down": carried.ip_down / rounds}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is asked for, with the brokers that it takes."""
    names = [WORKER, *(f"w{number}" for number in range(2, WORKERS + 1))] if options.idle else [WORKER]
    more = [(name, VERSION) for name in names[1:]]
    async with secured_deployment(
        (), worker_flags=None, more_devices=[EDGE], more_workers=more, sites=int(options.site)
    ) as made:
        if options.idle:
            return await idle(options, made.folder, made.port, names)
        if options.site:
            ports = {"central": made.port, "the site's": made.sites[0].port}
            return await through_site(options, made.folder, ports)
        with PrivateBroker() as broker:
            return await measure(options, broker.port, made.folder, made.port)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--idle", type=float, metavar="SECONDS", help="measure an idle edge node for so long"
    )
    arguments.add_argument("--site", action="store_true", help="measure rounds through a site's broker")
    options = arguments.parse_args()
    results = asyncio.run(run(options))
    if options.idle:
        print(table(tuple(results), [list(results.values())]))
    else:
        for title, name in (
            ("rounds", "rounds"),
            ("payload bytes", "payload_bytes"),
            ("IP bytes", "ip_bytes"),
        )[: 1 if options.site else None]:
            print(f"{title} (K = {K}, a prompt of {PROMPT} tokens)")
            print(table(tuple(results[name][0]), [list(row.values()) for row in results[name]]))
            print()
    finish("transport", results, quick=options.quick)


if __name__ == "__main__":
    main()
