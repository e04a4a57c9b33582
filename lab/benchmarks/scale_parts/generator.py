"""A load generator: many edge nodes in one process, each with a connection, a client id and a name of its own.

    python -m lab.benchmarks.scale_parts.generator CROWD

CROWD is a `Crowd` as JSON. It says `Ready` when all are connected, takes one `Order` a line on standard input and
answers each with an `Outcome`. It ends with its input.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import msgspec

from edge_node.generation import Generation, GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.simulated import SimulatedDrafter
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import LinkSettings
from lab.benchmarks.scale_parts import null
from lab.benchmarks.scale_parts.orders import Crowd, Mark, Order, Outcome, Ready, say
from lab.benchmarks.scale_parts.stopwatch import Stopwatch

PROMPT = 16
"""Tokens of a prompt that is made."""


def seed_of(order: Order, edge: int, session: int, number: int) -> int:
    """Of a text; no two texts of a run share it."""
    return (order.seed << 44 | edge << 28 | session << 20 | number) & (2**64 - 1)


def prompt_of(seed: int) -> tuple[int, ...]:
    """Of a text of the null model."""
    rng = random.Random(seed)
    return tuple(rng.randrange(1, null.VOCABULARY) for _ in range(PROMPT))


@dataclass(slots=True)
class Edge:
    """A device: its node and the stopwatch at its link."""

    number: int
    node: EdgeNode
    watch: Stopwatch


@dataclass(slots=True)
class Work:
    """One order being carried out.

    Attributes:
        writers: sessions that write at a time, all edges together.
        live: texts being written, of a steady order.
        since: tokens that each of its sessions has written since all write.
    """

    order: Order
    writers: int
    outcome: Outcome = field(default_factory=Outcome)
    live: dict[tuple[int, int], tuple[Edge, Generation]] = field(default_factory=dict)
    since: dict[tuple[int, int], int] = field(default_factory=dict)

    async def session(self, edge: Edge, session: int, place: int) -> None:
        """Write one text after the other."""
        order, number = self.order, 0
        offset = order.period * place / max(1, self.writers)
        while True:
            now = time.monotonic()
            due = order.starts + offset + number * order.period if order.period or not number else now
            if order.stops is not None and max(due, now) >= order.stops:
                return
            await asyncio.sleep(due - now)
            if order.period:
                self.outcome.behind = max(self.outcome.behind, time.monotonic() - due)
            await self._text(edge, session, number)
            number += 1
            if order.stops is None:
                return

    async def _text(self, edge: Edge, session: int, number: int) -> None:
        order, outcome = self.order, self.outcome
        seed = seed_of(order, edge.number, session, number)
        prompt = tuple(order.prompts[edge.number]) if order.prompts else prompt_of(seed)
        began = time.monotonic()
        generation = edge.node.generate(
            GenerationRequest(
                prompt=prompt,
                sampling=SamplingParams(0.0, 0, 1.0, seed),
                limit=order.limit,
                policy=FixedPolicy(Plan(order.draft_length, 1, order.qos, order.ahead)),
                ignore_eos=True,
                timeout=order.patience,
                version=order.version,
            )
        )
        commits: list[tuple[float, int]] = []
        tokens: list[int] = []
        async for event in generation:
            now = time.monotonic()
            if isinstance(event, Finish):
                self._finished(generation, event, tokens)
                break
            tokens += event.tokens
            commits.append((now, len(event.tokens)))
            if len(commits) == 1:
                outcome.first.append(now - began)
            if order.steady is not None:
                self._steady(edge, generation, len(event.tokens), now)
            if order.window[0] <= now < order.window[1]:
                outcome.tokens += len(event.tokens)
        if order.steady is not None:
            outcome.trace.append(commits)
            outcome.edges.append(edge.number)
            outcome.written.append(tokens)
        if order.known and tokens != null.text(seed, prompt, order.limit)[: len(tokens)]:
            outcome.wrong += 1

    def _finished(self, generation: Generation, finish: Finish, tokens: Sequence[int]) -> None:
        outcome, counters = self.outcome, generation.machine.counters
        outcome.opens += counters.opens
        outcome.reopens += counters.reopens
        outcome.polls += counters.polls
        outcome.busy += counters.busy
        if self.outcome.end and finish.reason is FinishReason.CANCELLED:
            return
        if finish.reason is not FinishReason.LENGTH or len(tokens) != self.order.limit:
            outcome.failures.append(f"{finish.reason}: {finish.error or f'{len(tokens)} tokens'}")
            return
        outcome.texts += 1
        outcome.text_rounds += counters.rounds
        written = generation.machine.written
        worker = "?" if written is None else written.worker
        outcome.workers[worker] = outcome.workers.get(worker, 0) + 1

    def _steady(self, edge: Edge, generation: Generation, tokens: int, now: float) -> None:
        """A session of a steady order has written; tell when all do, and end all of them when it was enough."""
        self.live[generation.session, edge.number] = (edge, generation)
        if self.outcome.end or len(self.live) < self.writers:
            return
        if not self.outcome.begin:
            self.outcome.begin = now
            say(Mark("writing"))
            return
        key = (generation.session, edge.number)
        self.since[key] = self.since.get(key, 0) + tokens
        if self.since[key] >= (self.order.steady or 0):
            self.outcome.end = now
            say(Mark("ended"))
            for one, text in self.live.values():
                one.node.cancel(text)


async def carry_out(edges: Sequence[Edge], order: Order) -> Outcome:
    """Have an order written."""
    active = edges[: order.active]
    work = Work(order, len(active) * order.sessions)
    for edge in edges:
        edge.watch.rounds.clear()
    async with asyncio.TaskGroup() as group:
        for place, edge in enumerate(active):
            for session in range(order.sessions):
                group.create_task(work.session(edge, session, place * order.sessions + session))
    begin, end = order.window
    work.outcome.rounds_us = [
        round(1e6 * spent) for edge in edges for at, spent in edge.watch.rounds if begin <= at < end
    ]
    return work.outcome


async def serve(crowd: Crowd) -> None:
    """Connect all edges and carry out orders until the input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    drafter = None
    if crowd.right is not None:
        drafter = SimulatedDrafter(partial(null.draft_token, right=crowd.right), null.CONTEXT)
    async with AsyncExitStack() as stack:
        edges = []
        for number in range(crowd.first, crowd.first + crowd.count):
            watch = Stopwatch()
            settings = EdgeSettings(edge=f"e{number}", draft="none", give_up=60.0)
            node = EdgeNode(settings, drafter, bytes.fromhex(crowd.fingerprint), crowd.eos)
            base = LinkSettings(port=crowd.port, client_id=f"e-e{number}", give_up_after=30.0)
            edges.append(Edge(number, await stack.enter_async_context(node.running(watch.link, base)), watch))
        say(Ready())
        while line := await lines.readline():
            say(await carry_out(edges, msgspec.json.decode(line, type=Order)))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(lambda arguments: asyncio.run(serve(msgspec.json.decode(arguments[0], type=Crowd))), argv)


if __name__ == "__main__":
    sys.exit(main())
