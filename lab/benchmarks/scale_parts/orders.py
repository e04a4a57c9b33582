"""What the benchmark and its child processes say to each other: JSON, one object a line."""

from __future__ import annotations

import sys
from typing import TypeAlias

import msgspec

from flexspec_mq.errors import FlexSpecError
from lab.testbed.site.process import Process

LONGEST_ANSWER = 2**27
"""Bytes: a minute of rounds."""


class BenchmarkError(FlexSpecError):
    """A part of the benchmark did not do what it was asked to."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """The edges of one load generator.

    Attributes:
        port: of the broker on this machine.
        first, count: number of the first edge, and how many there are.
        fingerprint: hexadecimal; of the workers' tokenizer.
        eos: token ids that would end a text.
        right: share of prefixes in which the null draft is right; None drafts nothing.
    """

    port: int
    first: int
    count: int
    fingerprint: str
    eos: tuple[int, ...]
    right: float | None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the edges of a generator shall write. Times are seconds on the machine's monotonic clock.

    Attributes:
        version: to ask for.
        seed: of prompts and texts; another order needs another one.
        active: so many of the edges write, the others only stay connected; None is all of them.
        sessions: texts that an edge writes at a time.
        limit: tokens of a text.
        draft_length, ahead, qos: the plan, with one batch in flight.
        starts: when the first texts may begin.
        stops: no text begins later; None writes one text per session.
        period: from the beginning of one text to that of the next, of one session; 0 is one after the other. The
            first ones are spread over it.
        window: rounds and tokens count that end in it.
        prompts: token ids, one for each edge; None makes some.
        known: texts are those of the null model and are compared with them.
        steady: tell when all sessions write, and when one of them has written so many tokens since then; that ends
            the order, and every text wherever it is. Tell when every token came. None lets texts end by themselves.
        patience: seconds for one text.
    """

    version: str
    seed: int
    limit: int
    starts: float
    active: int | None = None
    sessions: int = 1
    draft_length: int = 0
    ahead: int = 0
    qos: int = 1
    stops: float | None = None
    period: float = 0.0
    window: tuple[float, float] = (0.0, float("1e12"))
    prompts: list[list[int]] | None = None
    known: bool = True
    steady: int | None = None
    patience: float = 120.0


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A child serves.

    Attributes:
        metrics: port of its figures, 0 if it has none.
    """

    metrics: int = 0


class Mark(msgspec.Struct, frozen=True, tag=True):
    """Something happened in a traced order: ``writing``, all sessions do, or ``ended``, there was enough of it."""

    what: str


class Outcome(msgspec.Struct, tag=True):
    """What came of an order.

    Attributes:
        rounds_us: of each round that ended in the window, microseconds; see `Stopwatch`.
        tokens: committed in the window.
        texts, text_rounds: texts that ended as they should, and verdicts with tokens that they took.
        wrong: texts with another content than the null model's.
        failures: of texts that ended otherwise.
        opens, reopens, polls, busy: of all texts.
        behind: longest that a text began after its time, seconds.
        workers: texts by the worker that ended them.
        first: seconds from a text's beginning to its first token, of all texts.
        begin, end: of the time in which all sessions of a steady order wrote.
        trace: of each session of a steady order, (when, tokens) of its commits.
        edges, written: of each session of a steady order, the number of its edge and its tokens.
    """

    rounds_us: list[int] = []
    tokens: int = 0
    texts: int = 0
    text_rounds: int = 0
    wrong: int = 0
    failures: list[str] = []
    opens: int = 0
    reopens: int = 0
    polls: int = 0
    busy: int = 0
    behind: float = 0.0
    workers: dict[str, int] = {}
    first: list[float] = []
    begin: float = 0.0
    end: float = 0.0
    trace: list[list[tuple[float, int]]] = []
    edges: list[int] = []
    written: list[list[int]] = []

    def add(self, other: Outcome) -> None:
        """Add those of another generator."""
        for name in ("tokens", "texts", "text_rounds", "wrong", "opens", "reopens", "polls", "busy"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("rounds_us", "failures", "first", "trace", "edges", "written"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.behind = max(self.behind, other.behind)
        for worker, count in other.workers.items():
            self.workers[worker] = self.workers.get(worker, 0) + count


Answer: TypeAlias = Ready | Mark | Outcome


async def answer(child: Process, within: float) -> Answer:
    """The next line of a child.

    Raises:
        FlexSpecError: it ended or was silent for `within` seconds.
    """
    found: Answer = msgspec.json.decode(await child.line(within), type=Answer)
    return found


def say(answer: Answer) -> None:
    """Print a line for the parent process."""
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    sys.stdout.flush()
