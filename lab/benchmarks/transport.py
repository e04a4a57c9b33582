"""Cost of the transport: a draft → verdict round through Mosquitto on loopback, with a model that takes no time.

Two cases in the same run, in turns: our link with our codec (K = 8 up, 9 tokens down), and a bare aiomqtt echo of as
many bytes. Nagle's algorithm is off everywhere. Edge and worker share one process and event loop.

IP bytes are those of the edge's connection, TCP acknowledgements and headers included, with rounds spaced so that no
acknowledgement can ride on the next packet, as over a real distance.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import aiomqtt

from broker.launcher import PrivateBroker
from flexspec_mq.codec import Codec
from flexspec_mq.topics import draft_filter, draft_topic, verdict_topic
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks._common import finish, parser, percentile, table
from lab.testbed.packet_counter import PacketCounter, packet_counter
from schemas.messages import Draft, Fin, Verdict

_CODEC = Codec()

EDGE, WORKER = "edge01", "wk01"
K = 8
BLOCK = 50
EXPIRY = 2.0
SPACING = 0.06
Block = Callable[[int, int], Awaitable[list[float]]]


def draft_message(seq: int, rng: random.Random) -> Draft:
    """A draft of K tokens, ids as spread as in SmolLM2's vocabulary."""
    tokens = tuple(rng.randrange(49_152) for _ in range(K))
    return Draft(rng.getrandbits(32), 1, seq, 100 + seq % 100, 0, rng.getrandbits(32), tokens, 0)


def verdict_for(draft: Draft) -> Verdict:
    """All accepted, and one more."""
    tokens = (*draft.tokens, 7)
    return Verdict(
        draft.session, draft.attempt, draft.seq, draft.start, tokens, draft.digest, Fin.NONE, 2, 50
    )


async def next_message(link: Link) -> Inbound:
    """The next message of a link."""
    async for event in link.events():
        if isinstance(event, Inbound):
            return event
    raise RuntimeError("the link ended")


async def serve_link(link: Link, qos: list[int], spacing: list[float]) -> None:
    """Answer drafts with verdicts; `qos` and `spacing` hold the current values."""
    async for event in link.events():
        if isinstance(event, Inbound):
            draft = cast("Draft", _CODEC.decode(event.payload))
            if spacing[0]:
                await asyncio.sleep(spacing[0])
            await link.publish(verdict_topic(EDGE), _CODEC.encode(verdict_for(draft)), qos=qos[0])


class LinkCase:
    """Our link and codec."""

    def __init__(self, edge: Link, qos: list[int], rng: random.Random) -> None:
        self._edge, self._qos, self._rng, self._seq = edge, qos, rng, 0

    async def block(self, qos: int, rounds: int) -> list[float]:
        """Seconds of each round."""
        self._qos[0] = qos
        times = []
        for _ in range(rounds):
            self._seq += 1
            draft = draft_message(self._seq, self._rng)
            start = time.perf_counter()
            await self._edge.publish(draft_topic(WORKER, EDGE), _CODEC.encode(draft), qos=qos, expiry=EXPIRY)
            verdict = _CODEC.decode((await next_message(self._edge)).payload)
            times.append(time.perf_counter() - start)
            if not isinstance(verdict, Verdict) or verdict.echo != self._seq:
                raise RuntimeError(f"the verdict for {self._seq} is {verdict}")
        return times


class BareCase:
    """aiomqtt as its manual shows it, with Nagle off; it carries as many bytes and does nothing with them."""

    def __init__(self, edge: aiomqtt.Client, sizes: tuple[int, int]) -> None:
        self._edge, self._up = edge, bytes(sizes[0])

    async def block(self, qos: int, rounds: int) -> list[float]:
        """Seconds of each round."""
        times = []
        messages = self._edge.messages
        for _ in range(rounds):
            start = time.perf_counter()
            await self._edge.publish(f"b/d{qos}", self._up, qos=qos)
            await anext(messages)
            times.append(time.perf_counter() - start)
        return times


async def serve_bare(worker: aiomqtt.Client, down: bytes) -> None:
    """Answer at the quality of service at which a message came."""
    async for message in worker.messages:
        await worker.publish("b/v", down, qos=message.qos)


async def measure(options: argparse.Namespace, port: int) -> dict[str, Any]:
    """Run all cases against the broker on `port`."""
    rng = random.Random(options.seed)
    qos, spacing = [0], [0.0]
    draft = draft_message(1, rng)
    sizes = len(_CODEC.encode(draft)), len(_CODEC.encode(verdict_for(draft)))
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(
            mqtt_link(
                LinkSettings(port=port, client_id="e", subscriptions=(Subscription(verdict_topic(EDGE), 2),))
            )
        )
        worker = await stack.enter_async_context(
            mqtt_link(
                LinkSettings(port=port, client_id="w", subscriptions=(Subscription(draft_filter(WORKER), 2),))
            )
        )
        bare_edge, bare_worker = [await stack.enter_async_context(bare(port)) for _ in range(2)]
        await bare_edge.subscribe("b/v", qos=2)
        for level in range(3):
            await bare_worker.subscribe(f"b/d{level}", qos=2)
        await edge.wait_up(10)
        await worker.wait_up(10)
        serving = [
            asyncio.create_task(serve_link(worker, qos, spacing)),
            asyncio.create_task(serve_bare(bare_worker, bytes(sizes[1]))),
        ]
        link_case = LinkCase(edge, qos, rng)
        cases: dict[str, Block] = {
            "link + codec": link_case.block,
            "bare aiomqtt": BareCase(bare_edge, sizes).block,
        }
        rows = await rounds_in_turns(cases, 4 if options.quick else 20, rng)
        spacing[0] = SPACING
        counter = await stack.enter_async_context(packet_counter(port))
        counted = await stack.enter_async_context(
            mqtt_link(
                LinkSettings(
                    port=counter.port, client_id="c", subscriptions=(Subscription(verdict_topic(EDGE), 2),)
                )
            )
        )
        await counted.wait_up(10)
        counted_case = LinkCase(counted, qos, rng)
        wire = await bytes_per_round(counted_case, counter, 10 if options.quick else 50)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
    return {"payload_bytes": {"draft": sizes[0], "verdict": sizes[1]}, "rounds": rows, "ip_bytes": wire}


def bare(port: int) -> aiomqtt.Client:
    """An aiomqtt client with the two settings that matter."""
    return aiomqtt.Client(
        "127.0.0.1",
        port,
        protocol=aiomqtt.ProtocolVersion.V5,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )


async def rounds_in_turns(cases: dict[str, Block], blocks: int, rng: random.Random) -> list[dict[str, Any]]:
    """Measure each case at each quality of service, block by block in random order."""
    keys = [(name, qos) for qos in range(3) for name in cases]
    times: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for name, qos in keys:
        await cases[name](qos, BLOCK)  # warm up
    for _ in range(blocks):
        for name, qos in rng.sample(keys, len(keys)):
            times[name, qos] += await cases[name](qos, BLOCK)
    p50 = {key: percentile(values, 0.5) for key, values in times.items()}
    return [
        {
            "case": name,
            "qos": qos,
            "p50_ms": p50[name, qos] * 1e3,
            "p95_ms": percentile(times[name, qos], 0.95) * 1e3,
            "rounds_per_s": len(times[name, qos]) / sum(times[name, qos]),
            "of_bare": p50[name, qos] / p50["bare aiomqtt", qos],
            "rounds": len(times[name, qos]),
        }
        for name, qos in keys
    ]


async def bytes_per_round(case: LinkCase, counter: PacketCounter, rounds: int) -> list[dict[str, Any]]:
    """IP bytes between edge and broker per round."""
    rows = []
    for qos in range(3):
        before = counter.received()
        for _ in range(rounds):
            await case.block(qos, 1)
            await asyncio.sleep(SPACING)
        carried = counter.received() - before
        rows.append({"qos": qos, "up": carried.ip_up / rounds, "down": carried.ip_down / rounds})
    return rows


def main() -> None:
    """Measure and print."""
    options = parser(__doc__ or "").parse_args()
    with PrivateBroker() as broker:
        results = asyncio.run(measure(options, broker.port))
    headers = ("case", "QoS", "p50 ms", "p95 ms", "rounds/s", "of bare")
    fields = ("case", "qos", "p50_ms", "p95_ms", "rounds_per_s", "of_bare")
    print(table(headers, [[row[field] for field in fields] for row in results["rounds"]]))
    print()
    sizes = results["payload_bytes"]
    print(f"payload bytes: draft {sizes['draft']}, verdict {sizes['verdict']} (K = {K})")
    wire = [[row[name] for name in ("qos", "up", "down")] for row in results["ip_bytes"]]
    print(table(("IP per round, QoS", "bytes up", "bytes down"), wire))
    finish("transport", results, quick=options.quick)


if __name__ == "__main__":
    main()
