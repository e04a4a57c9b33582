"""The interface between the daemon and whatever decides tokens.

An engine is an `Engine`, below. `load_engine` in ``load.py`` makes the one that settings ask for: another one is
plugged in there, with its libraries in `check_libraries`. `WorkItem` says what a step has to decide, in
``flexspec_mq/protocol/worker/types.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from schemas.messages import LEFT_OPEN, PartialSampling

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from mmap import mmap
    from pathlib import Path

    from cloud_worker.engine.timing import Timings
    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.errors import FlexSpecError
    from flexspec_mq.grammar.compiled import CompiledGrammars
    from flexspec_mq.heads.manifest import Canary, Manifest
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.protocol.effects import SessionKey
    from flexspec_mq.protocol.worker.types import DraftRows, Full, WorkItem
    from flexspec_mq.transport.link import Link
    from schemas.status import DraftOffer, TargetText, TokenizerStatus

T = TypeVar("T")
Exactness = Literal["exact", "exact up to ties", "the server's", "unknown"]


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of an engine, as its worker tells them.

    Attributes:
        fingerprint: Fingerprint of the tokenizer's contents, 16 bytes.
        flip_rate: measured share of tokens that another shape changes; None where it is exact.
        weights: ``native``, or how many bits they have.
        room: tokens that the KV cache holds at once; None where nothing bounds them.
        keeps: whether it can go on from what it read for an earlier session.
        recommended: how to sample.
        draft: name of the draft that it drafts with itself; empty without one.
        tokenizer: Summary of the tokenizer; None if nobody knows more than its fingerprint.
        text: how its texts are written and read; None if nobody knows.
        file: the tokenizer itself, as `told_text` packs it; empty where there is no such file.
        timings: Times of target and draft, measured at the start; None where nobody timed them.
        target: name of the target, for people.
        proof: how exact it is, in words; empty where nothing was proved.
        grammar: name and version of what reads grammars; empty where nothing does.
        offer: draft that devices may fetch; None for none.
        offered: mapped file of that draft.
        penalties: whether it knows whole rows of logits, as penalties and a bias of them need.
        writes: see `VersionFacts`.
        slots: texts that it writes at a time; None where that is the worker's to say.
        versions: versions that it serves by itself; none is the worker's one.
        request_bytes, image_bytes: see `WorkerStatus`.
    """

    fingerprint: bytes
    max_context: int
    vocab_size: int
    exactness: Exactness
    flip_rate: float | None
    device: str
    dtype: str
    weights: str = "native"
    room: int | None = None
    keeps: bool = False
    recommended: PartialSampling = LEFT_OPEN
    draft: str = ""
    tokenizer: TokenizerStatus | None = None
    text: TargetText | None = None
    file: bytes = b""
    timings: Timings | None = None
    target: str = ""
    proof: str = ""
    grammar: str = ""
    offer: DraftOffer | None = None
    offered: mmap | None = None
    penalties: bool = True
    writes: int = 0
    slots: int | None = None
    versions: tuple[str, ...] = ()
    request_bytes: int = 0
    image_bytes: int = 0


@dataclass(slots=True)
class StepResult:
    """Result of one step, which the engine fills in.

    Attributes:
        decided: finished items with their tokens.
        failed: Items that cannot go on, and why: a `GrammarError`, or an error of the engine.
        times: Milliseconds of items that did not share one forward.
        rows: Fate of the sessions' drafts, where that is not all of the edge's and nothing else.
        compute_ms: Milliseconds of the forward.
        batch: sessions that shared it.
        fed: tokens that it read, drafted ones included.
        drafted: Tokens among these that the engine drafted itself.
        cut: drafted tokens of edges that were put off in favour of others' tokens.
        held_back: sessions that were put off as their device had more of them than others.
        slowed: tokens of prompts that it read for devices which have had many read while others write.
    """

    decided: list[tuple[WorkItem, tuple[int, ...]]] = field(default_factory=list)
    compute_ms: int = 0
    batch: int = 0
    fed: int = 0
    drafted: int = 0
    cut: int = 0
    rows: dict[SessionKey, DraftRows] = field(default_factory=dict)
    held_back: int = 0
    slowed: int = 0
    failed: list[tuple[WorkItem, FlexSpecError]] = field(default_factory=list)
    times: dict[SessionKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KVMemory:
    """Memory of the KV cache.

    Attributes:
        nbytes: bytes held now.
        limit: most at any moment; None is no limit.
        dropped, evicted: caches of ended texts and of live sessions that went to make room, since the start.
    """

    nbytes: int
    limit: int | None
    dropped: int
    evicted: int


class Submit(Protocol):
    """`EngineThread.submit`: has something done on the engine's thread, between two steps."""

    def __call__(self, call: Callable[[], T]) -> Future[T]:
        """See `EngineThread`."""
        ...


class HeadHolder(Protocol):
    """Holds heads beside an engine's base, for versions of a family. Methods are called on a thread of their own."""

    @property
    def loaded(self) -> LoadedText:
        """Text side of the base."""
        ...

    @property
    def layers(self) -> int:
        """Number of the base's layers.

        Raises:
            ModelError: the base cannot have heads.
        """
        ...

    def hold(self, name: str, folder: Path, manifest: Manifest, submit: Submit, /) -> None:
        """Hold a head that lies in a folder.

        Raises:
            ModelError: it is bad, or of a kind that is not held here. Nothing of it is held then.
        """
        ...

    def count_right(self, name: str, canary: Canary, submit: Submit, /) -> int:
        """Count the tokens of a canary that are a head's likeliest behind what precedes them; "" is the base.

        Raises:
            ModelError: the canary is of another base.
        """
        ...

    def prove(self, name: str, digest: bytes, submit: Submit, /) -> Exactness:
        """Prove a head that is held, or find its proof by the digest of its manifest."""
        ...

    def drop(self, name: str, submit: Submit, /) -> None:
        """Let go of a head that is held, of which no version is any more."""
        ...


class RequestFetcher(Protocol):
    """Fetches requests that are too long for a message from their devices. Used on the worker's event loop."""

    async def run(self, link: Link, worker: str) -> None:
        """Fetch over a link, until cancelled, by the name of the worker on topics."""
        ...

    def take(self, topic: str, payload: bytes) -> bool:
        """Take what came on a topic of pieces; tell whether it did.

        Raises:
            RemoteProtocolError: it is no piece.
        """
        ...


class Engine(Protocol):
    """Decides tokens for work items. All methods are called on one thread of their own; properties on any."""

    @property
    def facts(self) -> Facts:
        """Properties of the engine."""
        ...

    @property
    def head_holder(self) -> HeadHolder | None:
        """Holder of its heads; None if it can have none, and so follow no family."""
        ...

    @property
    def grammars(self) -> CompiledGrammars | None:
        """Grammars of its texts; None if they can have none. Used on any thread."""
        ...

    @property
    def requests(self) -> RequestFetcher | None:
        """Fetcher of long requests; None if its prompts are token ids."""
        ...

    @property
    def memory(self) -> KVMemory | None:
        """Memory of the KV cache now; None if it does not tell."""
        ...

    @property
    def trouble(self) -> str:
        """Why it can decide nothing now; empty if it can."""
        ...

    @property
    def full(self) -> Full:
        """Why and until when it takes no new sessions."""
        ...

    def add(self, item: WorkItem) -> None:
        """Take an item in; a later `step` decides it."""
        ...

    def hold(self, version: str, head: str) -> None:
        """From now on items of a version are of a head that the model holds; "" is the base."""
        ...

    def hold_drafter(self, version: str, drafter: PricedDrafter) -> None:
        """From now on this drafts for sessions of a version, where the engine drafts with a model; until `drop`."""
        ...

    def drop(self, version: str) -> str:
        """A version has no items any more, and gets none; the name of its head."""
        ...

    def free(self, key: SessionKey) -> None:
        """Forget a session and its item."""
        ...

    def release(self, key: SessionKey) -> None:
        """A session is over: drop its item; what was read may serve another one, and is the first to go.

        Called only where `facts.keeps`.
        """
        ...

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None) -> None:
        """Give the KV cache of `source`, if it is still there, to `key`; of `shared` tokens a copy.

        Called only where `facts.keeps`.
        """
        ...

    def step(self) -> StepResult:
        """Run one forward over what is pending, or wait until something of it is decided."""
        ...

    def wake(self) -> None:
        """There is more to take in: a step that only waits returns. Called on any thread."""
        ...

    def close(self) -> None:
        """Let go of threads and connections; nothing is asked any more. Called on any thread."""
        ...

    def idle(self) -> bool:
        """Whether nothing is pending."""
        ...
