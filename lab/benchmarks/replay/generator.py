"""A load generator: real edge nodes in one process, each with a connection of its own, whose drafts are replayed.

    python -m lab.benchmarks.replay.generator DEVICES

DEVICES is a `Devices` as JSON. It says `Ready` when all are connected, takes one `Order` a line on standard input and
answers each with what was `Written`. It ends with its input. A drafted token takes the time that it takes a device,
and none of the processor's; lookups are made as an edge makes them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_node.generation import Generation, GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings
from flexspec_mq.daemon.main import run_main
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.prompt_lookup_drafter import PromptLookupDrafter
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import LinkSettings
from flexspec_mq.transport.mqtt import mqtt_link
from lab.benchmarks.replay.crowds import WARM_UP, arrivals, order_of
from lab.benchmarks.replay.figures import TextRun
from lab.benchmarks.replay.orders import Devices, Order, Ready, Writer, Written, say
from lab.simulator.recording import RecordedText, Recording, read_recording
from lab.simulator.replayed_drafter import ReplayedDrafter

_WHOLE = (FinishReason.EOS, FinishReason.LENGTH)


@dataclass(slots=True)
class Work:
    """One order being carried out.

    Attributes:
        nodes: all edges.
        recording: of the texts.
        runs: texts that count, and in the end all others that are not what they should be, as far as they went.
        enough: all that count have ended; what is being written is cancelled.
    """

    nodes: Sequence[EdgeNode]
    recording: Recording
    order: Order
    runs: list[TextRun] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    _live: set[tuple[EdgeNode, Generation]] = field(default_factory=set)
    _stray: list[TextRun] = field(default_factory=list)

    async def carry_out(self) -> None:
        """Write all texts."""
        async with asyncio.TaskGroup() as group:
            if self.order.rate is None:
                for number, writer in enumerate(self.order.writers):
                    group.create_task(self._closed(number, writer))
            else:
                group.create_task(self._open(self.order.rate))
            await self.enough.wait()
            for node, generation in list(self._live):
                node.cancel(generation)
        self.runs += self._stray

    def _texts(self, client: int) -> Iterator[RecordedText]:
        wanted = self.order.temperature
        texts = [text for text in self.recording.texts if wanted in (None, text.temperature)]
        return order_of(texts, self.order.seed, client)

    async def _closed(self, client: int, writer: Writer) -> None:
        order = self.order
        for number, text in enumerate(self._texts(client)):
            if self.enough.is_set():
                return
            run = await self._write(client, writer, text, time.monotonic())
            if run is None:
                return
            if order.each is None or WARM_UP <= number < WARM_UP + order.each:
                self.runs.append(run)
                if order.each is not None and len(self.runs) == order.each * len(order.writers):
                    self.enough.set()
            elif run.problem:
                self._stray.append(run)

    async def _open(self, rate: float) -> None:
        order = self.order
        free: asyncio.Queue[Writer] = asyncio.Queue()
        for writer in order.writers:
            free.put_nowait(writer)
        began = time.monotonic()
        texts = self._texts(0)

        async def one(number: int, writer: Writer, due: float) -> None:
            run = await self._write(number, writer, next(texts), due)
            free.put_nowait(writer)
            if run is not None and number >= order.count // 10:
                self.runs.append(run)
            elif run is not None and run.problem:
                self._stray.append(run)

        async with asyncio.TaskGroup() as group:
            for number, at in enumerate(arrivals(rate, order.count, order.seed)):
                await asyncio.sleep(max(0.0, began + at - time.monotonic()))
                group.create_task(one(number, await free.get(), began + at))
        self.enough.set()

    async def _write(self, client: int, writer: Writer, text: RecordedText, due: float) -> TextRun | None:
        """One text; None if it was cancelled because there are enough."""
        node = self.nodes[writer.edge]
        generation = node.generate(
            GenerationRequest(
                prompt=text.prompt,
                sampling=SamplingParams(text.temperature, 0, 1.0, text.seed),
                limit=self.recording.about.tokens,
                policy=writer.plan.new_policy(),
                timeout=self.order.patience,
                version=self.order.version,
            )
        )
        pieces: list[tuple[float, int]] = []
        tokens: list[int] = []
        finish: Finish | None = None
        live = (node, generation)
        self._live.add(live)
        async for event in generation:
            if isinstance(event, Finish):
                finish = event
            else:
                tokens += event.tokens
                pieces.append((time.monotonic(), len(event.tokens)))
        self._live.discard(live)
        assert finish is not None
        cancelled = finish.reason is FinishReason.CANCELLED and self.enough.is_set()
        problem = ""
        if finish.reason not in _WHOLE and not cancelled:
            problem = f"{finish.reason}: {finish.error or ''}"
        elif tuple(tokens) != text.tokens[: len(tokens) if cancelled else None]:
            problem = "another text"
        run = TextRun(
            client,
            due,
            tuple(pieces),
            problem,
            generation.machine.counters.proposed,
            generation.traffic.up,
            generation.traffic.down,
        )
        if cancelled and problem:
            self._stray.append(run)
        return None if cancelled else run


async def serve(devices: Devices) -> None:
    """Connect all edges and carry out orders until the input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    recording = read_recording(Path(devices.recording))
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(devices.count + devices.hasty):
            pace = devices.token_ms if number < devices.count else 0.0
            node = replaying_node(f"{devices.prefix}{number}", recording, pace)
            base = LinkSettings(
                host=devices.host, port=devices.port, client_id=f"e-{node.name}", give_up_after=30.0
            )
            nodes.append(await stack.enter_async_context(node.running(mqtt_link, base)))
        say(Ready())
        while line := await lines.readline():
            work = Work(nodes, recording, msgspec.json.decode(line, type=Order))
            if work.order.each is None:
                await until_told(work, lines)
            else:
                await work.carry_out()
            say(Written(work.runs))


async def until_told(work: Work, lines: asyncio.StreamReader) -> None:
    """Carry out an order until another line comes, or the input ends."""
    async with asyncio.TaskGroup() as group:
        group.create_task(work.carry_out())
        await lines.readline()
        work.enough.set()


def replaying_node(name: str, recording: Recording, ms: float) -> EdgeNode:
    """An edge node whose model's drafts are recorded.

    Args:
        name: on topics.
        recording: of all texts that it is asked for.
        ms: that a drafted token takes it.
    """
    # Prompts come again in other texts: each is read anew, as those of other users would be.
    drafter = HybridDrafter(
        ReplayedDrafter.on_device(recording, ms), PromptLookupDrafter(max_context=recording.max_context)
    )
    settings = EdgeSettings(edge=name, draft="none", give_up=120.0)
    return EdgeNode(settings, drafter, bytes.fromhex(recording.fingerprint), recording.eos, reuse=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(
        lambda arguments: asyncio.run(serve(msgspec.json.decode(arguments[0], type=Devices))), argv
    )


if __name__ == "__main__":
    sys.exit(main())
