"""What a benchmark and its load generator say to each other: JSON, one object a line."""

from __future__ import annotations

import sys
from typing import TypeAlias

import msgspec

from edge_node.settings import PlanOptions
from flexspec_mq.errors import FlexSpecError
from lab.benchmarks.replay.figures import TextRun
from lab.testbed.site.process import Process

LONGEST_ANSWER = 2**27
"""Bytes: some thousand texts."""


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """The edges of a generator.

    Attributes:
        host, port: of the broker.
        recording: file.
        count: how many, named after `prefix`.
        token_ms: that a drafted token takes each of them.
        hasty: so many more behind them, whose drafts take no time.
    """

    port: int
    recording: str
    count: int
    token_ms: float
    host: str = "127.0.0.1"
    prefix: str = "d"
    hasty: int = 0


class Writer(msgspec.Struct, frozen=True, kw_only=True):
    """A client, which writes one text after the other.

    Attributes:
        edge: number of its edge.
        plan: of its drafts.
    """

    edge: int
    plan: PlanOptions


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What shall be written.

    Attributes:
        version: to ask for.
        writers: of a closed loop; of an open one, those to which texts are given in turn, each to one that is free.
        seed: of the order of texts.
        each: texts of each writer that count, after some that do not. All go on until the last of these has ended.
            None goes on until the next line comes, and counts all that have ended by then.
        rate: texts per second that arrive by a Poisson process; None is a closed loop.
        count: of these.
        temperature: only texts that were written at it; None takes all.
        patience: seconds for one text.
    """

    version: str
    writers: tuple[Writer, ...]
    seed: int
    each: int | None = 1
    rate: float | None = None
    count: int = 0
    temperature: float | None = None
    patience: float = 600.0


class Ready(msgspec.Struct, frozen=True, tag=True):
    """All edges are connected."""


class Written(msgspec.Struct, frozen=True, tag=True):
    """What came of an order."""

    runs: list[TextRun]


Answer: TypeAlias = Ready | Written


async def answer(child: Process, within: float) -> Answer:
    """The next line of a generator.

    Raises:
        FlexSpecError: it ended, or was silent for `within` seconds.
    """
    found: Answer = msgspec.json.decode(await child.line(within), type=Answer)
    return found


async def carried_out(child: Process, order: Order, within: float = 3600.0) -> list[TextRun]:
    """Have an order carried out that ends by itself.

    Raises:
        FlexSpecError: the generator ended or hangs.
    """
    await child.send(msgspec.json.encode(order))
    found = await answer(child, within)
    if not isinstance(found, Written):
        raise FlexSpecError(f"a generator answered {found}")
    return found.runs


def say(answer: Answer) -> None:
    """Print a line for the parent process."""
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()
