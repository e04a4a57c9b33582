"""Whoever sees sizes alone: the network, and whoever runs the broker."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from difflib import SequenceMatcher
from functools import partial
from typing import Any

from edge_node.wire import Wire
from flexspec_mq.codec import Codec
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import read_envelope
from flexspec_mq.protocol.effects import Send
from flexspec_mq.transport.base import Inbound, LinkSettings, Subscription
from flexspec_mq.transport.link import Link
from lab.simulator.world import FINGERPRINT
from lab.testbed.memory_broker import MemoryBroker
from schemas.messages import Identity, Open, Sampling
from tests.daemons import check, edge_at, until, wanting, worker_at
from tests.keys.deployments_of_keys import KeyedDeployment

IDENTITY = Identity(2, FINGERPRINT, Sampling(0.7, 40, 0.9, 1), (), True, 40)
TRIES = 20


def opening(prompt: str) -> Open:
    return Open(7, 1, IDENTITY, tuple(prompt.encode()), (), 0, 1, ())


def guessed(size: Callable[[str], int], rng: random.Random) -> str:
    """A PIN as somebody finds it, digit by digit, who may ask a bot that knows it, and sees the sizes of opens."""
    known = ""
    for _ in range(6):
        sizes: Counter[str] = Counter()
        for digit in "0123456789":
            for form in ("PIN is {}x", "PIN is {}~", "s PIN is {}#q", "customer's PIN is {}!", "is {}zz"):
                sizes[digit] += size(form.format(known + digit))
        least = min(sizes.values())
        known += rng.choice([digit for digit in sizes if sizes[digit] == least])
    return known


def test_no_size_of_an_open_tells_a_secret_of_its_prompt(keys: KeyedDeployment) -> None:
    """Where what two authors wrote is compressed together, a guess that is right makes it shorter (CRIME)."""
    device = EdgeKeys(keys.edge())
    device.begin(7, "base")
    sealed, plain = Wire("edge", device, lambda _: None), Codec()
    rng = random.Random(1)
    found: Counter[str] = Counter()
    sizes: set[int] = set()
    for _ in range(TRIES):
        pin = "".join(rng.choices("0123456789", k=6))
        prompt = f"You are the assistant of a bank. The customer's PIN is {pin}. Never tell it.\nUser: "

        def under_a_seal(guess: str, prompt: str = prompt) -> int:
            size = len(sealed.encode(Send(None, opening(prompt + guess), 0, None), 0.0))
            sizes.add(size)
            return size

        def compressed(guess: str, prompt: str = prompt) -> int:
            return len(plain.encode(opening(prompt + guess)))

        found["sealed"] += guessed(under_a_seal, rng) == pin
        found["compressed"] += guessed(compressed, rng) == pin
    assert found["compressed"] > TRIES / 2
    assert found["sealed"] == 0
    # One of the padding, and the counter of messages in its head has up to three bytes.
    assert len(sizes) <= 3


async def verdicts(worker: dict[str, Any], edge: dict[str, Any]) -> list[list[int]]:
    """Sizes of the verdicts of answers of one length to each question; 0 of those that show a credential."""
    memory, seen = MemoryBroker(), defaultdict[int, list[int]](list)

    async def listens(link: Link) -> None:
        async for event in link.events():
            if isinstance(event, Inbound):
                introduces = bool(worker) and read_envelope(event.payload).introduction is not None
                seen[asked[0]].append(0 if introduces else len(event.payload))

    asked = [0]
    wanted = (Subscription("f1/v/edge"),)
    async with (
        memory.link(LinkSettings(client_id="listener", subscriptions=wanted)) as listener,
        worker_at(memory.link, "w1", **worker),
        edge_at(memory.link, **edge) as node,
    ):
        listening = asyncio.create_task(listens(listener))
        for number in range(TRIES):
            asked[0] = number
            [text] = await check(node, [wanting(number, limit=120)])
            answers = text.machine.counters.verdicts
            await until(partial(lambda row, answers: len(row) >= answers, seen[number], answers))
        listening.cancel()
    return [seen[number] for number in range(TRIES)]


async def test_sizes_of_verdicts_do_not_tell_what_was_asked(keys: KeyedDeployment) -> None:
    """Each question was asked once by who listens. Their number still tells something: 9 or 10 of 20, 1 is chance."""

    def named(known: list[list[int]], heard: list[list[int]]) -> int:
        likeness = [[SequenceMatcher(None, one, two).ratio() for one in known] for two in heard]
        return sum(row.index(max(row)) == number for number, row in enumerate(likeness))

    plain = [await verdicts({}, {}) for _ in range(2)]
    assert named(*plain) > TRIES / 2
    worker, edge = {"keys": keys.worker_file()}, {"keys": keys.edge_file()}
    sealed = [await verdicts(worker, edge) for _ in range(2)]
    assert len({size for run in sealed for answer in run for size in answer} - {0}) == 1
    assert named(*sealed) < named(*plain)
