"""How many Python functions an edge node calls for one round: draft requests, a batch, its verdict, what is shown.

A real node over a link that is none: the worker is a script, which answers each batch at once with what it decided, and
says that its forward took 20 ms. The plan is fixed, or that of the default policy, which chooses every few rounds; on
a busy machine it may do without the device's draft for a while, and then the script decides on by itself, as a worker
with credit does. Calls are counted by the interpreter's profiling hook, on the event loop's thread, from one batch
sent, or decision without one, to the next. A coroutine that goes on counts as a call. Ours are those of this project's
packages and of the methods that dataclasses make; what the script does is left out. They are the same on every machine,
unlike times; how often Python's own event loop goes round depends a little on when the drafter's thread answers.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.codec import Codec
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.protocol import digest as chains
from flexspec_mq.protocol.effects import Finish
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import (
    Inbound,
    LinkCounters,
    LinkEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
)
from schemas.messages import Draft, Fin, Open, Poll, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from flexspec_mq.transport.link import LinkFactory

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / package) for package in ("edge_node", "flexspec_mq", "schemas"))
PROMPT = tuple(range(1, 65))
_CODEC = Codec()
WORKER = "w1"
SKIPPED = 5
"""Rounds before the first one that is counted."""
DRAFTED = 4
_PATIENCE = 0.1
"""Seconds without a batch after which the script decides a token without, if it may run ahead."""
_TOKEN_S, _FORWARD_MS = 0.004, 20
"""Time of a drafted token and of a forward where a policy weighs them, so that batches of four are best."""


def token_at(position: int) -> int:
    """The text: what the script decides at a position, counted in generated tokens. Nothing repeats itself."""
    return 1000 + position


class Meter:
    """Calls of Python functions on this thread, while it runs and is not held."""

    def __init__(self) -> None:
        self.ours: Counter[str] = Counter()
        self.all = 0
        self._off = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens in the block."""
        sys.setprofile(self._count)
        try:
            yield
        finally:
            sys.setprofile(None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Leave out what happens in the block."""
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or self._off or code.co_filename == __file__:
            return
        self.all += 1
        if code.co_filename == "<string>" or code.co_filename.startswith(OURS):
            self.ours[f"{Path(code.co_filename).stem}.{code.co_qualname}"] += 1


@dataclass
class ScriptedWorker:
    """A link with one worker at its other end, for one session.

    Attributes:
        meter: held while the worker is at work.
        rounds: calls of ours and of all up to each batch, or decision without one.
    """

    meter: Meter

    def __post_init__(self) -> None:
        self.is_up = True
        self.counters = LinkCounters()
        self.rounds: list[tuple[int, int]] = []
        self._events: asyncio.Queue[LinkEvent] = asyncio.Queue()
        self._events.put_nowait(LinkUpEvent(1))
        self._chain = chains.Chain(0)
        self._ahead: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def __call__(self, settings: LinkSettings) -> AsyncIterator[ScriptedWorker]:
        """Be the link of a node."""
        del settings
        yield self

    async def wait_up(self, timeout: float | None = None) -> None:
        """It is up."""

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Verdicts come without it."""

    async def events(self) -> AsyncIterator[LinkEvent]:
        """The link is up; then verdicts."""
        while True:
            yield await self._events.get()

    async def send(self, sent: Outbound) -> None:
        """Answer a message."""
        with self.meter.held():
            message = _CODEC.decode(sent.payload)
            if isinstance(message, Open):
                self._chain = chains.chain_for(message.identity, "base", message.prompt)
                self._answer(message, (), WORKER)
                self._answer(message, self._decided(()))
                self._run_ahead(message)
            elif isinstance(message, Draft | Poll):
                self.rounds.append((self.meter.ours.total(), self.meter.all))
                self._run_ahead(message)
                if message.start <= len(self._chain):
                    self._answer(message, self._decided(message.tokens[len(self._chain) - message.start :]))

    def _run_ahead(self, message: Open | Draft | Poll, *, due: bool = False) -> None:
        """Decide on without batches, until another message comes."""
        with self.meter.held():
            if due:
                self.rounds.append((self.meter.ours.total(), self.meter.all))
                self._answer(message, self._decided(()))
            elif self._ahead is not None:
                self._ahead.cancel()
            if message.ahead:
                again = partial(self._run_ahead, message, due=True)
                self._ahead = asyncio.get_running_loop().call_later(_PATIENCE, again)

    def _decided(self, draft: Sequence[int]) -> tuple[int, ...]:
        """Tokens of the draft up to the first wrong one, and the one after them."""
        have = len(self._chain)
        right = 0
        while right < len(draft) and draft[right] == token_at(have + right):
            right += 1
        return tuple(token_at(have + place) for place in range(right + 1))

    def _answer(
        self, message: Open | Draft | Poll, tokens: tuple[int, ...], worker: str | None = None
    ) -> None:
        start = len(self._chain)
        self._chain.extend(tokens)
        end = self._chain.digest(len(self._chain))
        verdict = Verdict(
            message.session,
            1,
            message.seq,
            start,
            tokens,
            end,
            Fin.NONE,
            1,
            _FORWARD_MS,
            worker,
            60 if worker else 0,
        )
        self._events.put_nowait(Inbound("f1/v/edge", _CODEC.encode(verdict)))


@dataclass(frozen=True, slots=True)
class ScriptedDrafter:
    """Right up to a place in each batch.

    Attributes:
        right: tokens of each batch of `DRAFTED` that are the target's.
        at_once: tokens that it gives when asked.
        seconds: time of one of them.
    """

    right: int
    at_once: int
    seconds: float = 0.0

    def fits(self, context: Sequence[int]) -> bool:
        """Always."""
        return bool(context)

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Scripted decisions."""
        drafted = [self._one(one) for one in wanted]
        time.sleep(self.seconds * len(drafted[0] or ()))
        return drafted

    def _one(self, one: DraftRequest) -> Drafted:
        drafted = len(one.context) - one.committed
        places = range(drafted, drafted + min(one.most, self.at_once))
        first = one.committed - len(PROMPT)
        return tuple(
            DraftToken(token_at(first + place) if place < self.right else 1, 0.9) for place in places
        )

    def free(self, session: int) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True, slots=True)
class Case:
    """Drafts of a case, and its policy."""

    name: str
    drafter: ScriptedDrafter
    policy: Callable[[], Policy]


PLAN = Plan(draft_length=DRAFTED)
FIXED = partial(FixedPolicy, PLAN)
CASES = (
    Case("fixed plan, all accepted, one token at a time", ScriptedDrafter(DRAFTED, 1), FIXED),
    Case("fixed plan, the second is wrong", ScriptedDrafter(1, 1), FIXED),
    Case("fixed plan, all accepted, four at a time", ScriptedDrafter(DRAFTED, DRAFTED), FIXED),
    Case(
        "default policy, one token at a time", ScriptedDrafter(DRAFTED, 1, _TOKEN_S), PlanOptions().new_policy
    ),
    Case(
        "default policy, four at a time",
        ScriptedDrafter(DRAFTED, DRAFTED, _TOKEN_S),
        PlanOptions().new_policy,
    ),
)


@dataclass(frozen=True, slots=True)
class Traced:
    """Calls of Python functions, in each round.

    Attributes:
        ours: calls of this project's functions.
        every: calls of all functions.
        by_name: ours of the whole run, by function.
    """

    ours: Sequence[int]
    every: Sequence[int]
    by_name: Counter[str]


async def trace(case: Case, rounds: int) -> Traced:
    """Count calls of some rounds."""
    meter = Meter()
    link = ScriptedWorker(meter)
    node = EdgeNode(EdgeSettings(edge="edge"), case.drafter, bytes(16), (0,))
    request = GenerationRequest(
        prompt=PROMPT,
        sampling=SamplingParams(0.0, 0, 1.0, 1),
        limit=(rounds + SKIPPED + 2) * (case.drafter.right + 1),
        policy=case.policy(),
    )
    async with node.running(cast("LinkFactory", link), LinkSettings(client_id="edge")):
        with meter.running():
            async for event in node.generate(request):
                if isinstance(event, Finish) and event.error is not None:
                    raise event.error
    steps = list(pairwise(link.rounds[SKIPPED:]))[:rounds]
    ours, every = ([after[kind] - before[kind] for before, after in steps] for kind in (0, 1))
    return Traced(ours, every, meter.ours)
