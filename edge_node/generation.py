"""A text that a user of the edge node asks for, and its tokens as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edge_node.energy import TextEnergy
from flexspec_mq import entropy
from flexspec_mq.controller.plan import Policy
from flexspec_mq.energy.model import Spent
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.protocol.edge.patience import Patience, Waits
from flexspec_mq.protocol.effects import Commit, Finish, ProvisionalDraft
from schemas.messages import Sampling

if TYPE_CHECKING:
    from flexspec_mq.drafting.memory import Answers
    from flexspec_mq.grammar.grammar import Grammar
    from flexspec_mq.grammar.matcher import CompiledGrammar
    from flexspec_mq.models.byte_text.packed import PackedRequest
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.protocol.edge.session import EdgeSession
    from flexspec_mq.protocol.edge.types import DraftRequest
    from flexspec_mq.telemetry import TextSpan


Shown = Commit | ProvisionalDraft | Finish
"""Parts of a text, and its end, as its reader is told of them."""


class OtherText(FlexSpecError):
    """Another text would be written now than the one that an earlier incarnation of the node has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """A text that an earlier incarnation of the node has begun, with what fixes it beside the request.

    Attributes:
        session: number of its session.
        restarts: incarnations that have gone before, at least one; no number that one of them has used comes again.
        root: digest of its chain before the first token.
        private: private key of its session; empty without keys.
        committed: tokens that are decided.
    """

    session: int
    restarts: int
    root: int
    private: bytes = b""
    committed: tuple[int, ...] = ()

    @property
    def attempts(self) -> int:
        """Number of the newest attempt that an earlier incarnation may have published."""
        return self.restarts << 16

    @property
    def sent(self) -> int:
        """Messages that earlier incarnations may have sealed."""
        return self.restarts << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A text to write.

    Attributes:
        prompt: token ids, at least one.
        sampling: how tokens are chosen.
        limit: tokens to generate at most.
        policy: plans the drafts.
        ignore_eos: go on to the limit.
        finish_at: see `SessionRequest.finish_at`.
        timeout: seconds for the whole text; None is no bound.
        waits: bounds of its waiting.
        version: target version to ask for; None is the node's.
        digest: digest of the head that the catalogue gives this version, in hex; for the node's figures.
        prediction: token ids that the text will probably have; drafted from, and never more than that.
        user: name that the API's client gives its user: answers to others are not drafted from.
        recommended: sampling where the target's makers recommend this; None where that is all the same. If its worker
            recommends other values than `sampling` came from, a text that has no token yet is cancelled.
        text: whose ids these are, and how it ends; None is the node's own.
        grammar: texts that are allowed; None allows all.
        engine: name and version of the reader of grammars at the version's workers.
        compiled: the grammar, where this device can read it too.
        deliver: seconds for which the answer shall be kept at the broker, should the node be away when it is written.
        persisted: whether another incarnation of the node goes on with it: when this one ends, no worker is told.
        resume: remains of an earlier incarnation of it; None for a new one.
        span: span of the text; None where nobody wants it.
        provisional: whether provisional text may be written while nobody answers: by the draft alone, or
        alone: whoever writes it in the draft's place, told then how many tokens it may have.
        packed: request that the prompt names, as a blob for its worker; None where the prompt is all.
    """

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int
    policy: Policy
    ignore_eos: bool = False
    finish_at: Callable[[Sequence[int]], int | None] | None = None
    timeout: float | None = None
    waits: Waits = Waits()  # noqa: RUF009  a constant
    version: str | None = None
    digest: str = ""
    prediction: tuple[int, ...] = ()
    user: bytes = b""
    recommended: Callable[[Sampling], Sampling] | None = None
    text: LoadedText | None = None
    grammar: Grammar | None = None
    engine: str = ""
    compiled: CompiledGrammar | None = None
    deliver: int = 0
    persisted: bool = False
    resume: Resume | None = None
    span: TextSpan | None = None
    provisional: bool = False
    alone: Callable[[int], None] | None = None
    packed: PackedRequest | None = None


@dataclass(slots=True, eq=False)
class Generation:
    """A text being written. Iterate over it to get what is committed, what the draft wrote alone, then the finish.

    The queue is unbounded by design and bounded in fact: it holds at most `limit` tokens, those of a few drafts, and
    one finish.

    Attributes:
        session: the protocol's number of it.
        machine: the protocol machine; read its counters and observation.
        patience: how long its user waits for that, and what they see meanwhile.
        energy: counts what it takes out of the device; None where nobody wants to know.
        answers: earlier ones, to which its own is added; None where none are remembered.
        bytes_up, bytes_down: MQTT payload.
        fetched: bytes of its packed request that went to its worker.
        asked: when it was asked for, on the event loop's clock.
        paced: tokens after the first commit.
        seconds: time of these.
        stale_defaults: true if it was cancelled because its worker recommends another sampling; begin it again.
    """

    session: int
    request: GenerationRequest
    machine: EdgeSession
    patience: Patience
    energy: TextEnergy | None = None
    answers: Answers | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    fetched: int = 0
    asked: float = field(default_factory=entropy.now)
    paced: int = 0
    seconds: float = 0.0
    stale_defaults: bool = False
    _began: float | None = None
    _spent: Spent | None = None
    _events: asyncio.Queue[Shown] = field(default_factory=asyncio.Queue)

    def draft_request(self) -> DraftRequest | None:
        """Ask the session for what it wants drafted now; with all that a drafter may know of the text."""
        wanted, request = self.machine.draft_request(), self.request
        if wanted is None:
            return None
        answers = None if self.answers is None else self.answers.recall
        return replace(wanted, prediction=request.prediction, answers=answers, grammar=request.compiled)

    def sent(self, size: int) -> None:
        """Count a message that goes out, of so many bytes of payload."""
        self.bytes_up += size
        if self.energy is not None:
            self.energy.sent(size, entropy.now())

    def received(self, size: int) -> None:
        """Count a message that has come, of so many bytes of payload."""
        self.bytes_down += size
        if self.energy is not None:
            self.energy.received(size, entropy.now())

    def drafted(self, seconds: float) -> None:
        """Count its share of a round of the drafter."""
        if self.energy is not None:
            self.energy.drafted(seconds)

    def spent(self) -> Spent:
        """Energy that it has taken out of the device until now, or until its finish."""
        if self._spent is not None:
            return self._spent
        return Spent() if self.energy is None else self.energy.spent(entropy.now())

    def put(self, event: Shown) -> None:
        """Hand an event to whoever iterates."""
        if isinstance(event, Commit):
            now = entropy.now()
            if self._began is None:
                self._began = now
            else:
                self.paced += len(event.tokens)
                self.seconds = now - self._began
        elif isinstance(event, Finish):
            self._spent = self.spent()
        self._events.put_nowait(event)

    async def event(self, timeout: float) -> Shown | None:
        """The next event; None where none comes for so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return None

    async def __aiter__(self) -> AsyncIterator[Shown]:
        """Commits and provisional tokens as they come, then one `Finish`."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, Finish):
                return
