"""Input of a worker's machine, and what it hands to the engine."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import NamedTuple

from flexspec_mq import waiting
from flexspec_mq.daemon.tally import DraftTally
from flexspec_mq.protocol.effects import SessionKey
from schemas.messages import Identity, Sampling
from schemas.status import TokenizerStatus


class Full(NamedTuple):
    """Why new sessions are refused for now, and until when."""

    why: str = ""
    until: float = -inf


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """Facts of its target versions that a worker must know to take their sessions.

    Attributes:
        fingerprint: 16 bytes; of vocabulary contents, special tokens and chat template.
        max_context: prompt + generated tokens that the model can hold.
        vocab_size: token ids are below this.
        recommended: how its makers recommend to sample; None tells edges nothing.
        tokenizer: parts that must agree where the fingerprints differ; None if that is not known.
        penalties: whether tokens can be chosen with penalties or a bias of logits.
        writes: ids of texts that the engine writes by itself, as many as credit allows, for each token of credit; 0 is
            one that decides a token at a time, and those that were drafted.
    """

    fingerprint: bytes
    max_context: int
    vocab_size: int
    recommended: Sampling | None = None
    tokenizer: TokenizerStatus | None = None
    penalties: bool = True
    writes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Name and bounds of a worker.

    Attributes:
        worker: name on topics.
        versions: target versions that it holds from the start, at least one; `WorkerMachine.hold` and `retire` change
            them. An open whose topic names none, and that names no prefix either, is for the first of these.
        facts: facts of them all, which share a base.
        capacity: live sessions. As many finished ones are kept for late questions, the oldest dropped first.
        room: tokens that the KV cache holds at once, all sessions together; None is no bound. Sessions
            may outgrow it later, as what does not fit is read again when its turn comes.
        device_sessions: live sessions of one device.
        device_tokens: tokens of one device's live sessions, with which no further one is taken.
        lease: whole seconds of silence after which a session is freed.
        deliver_for: seconds for which an answer is kept for its edge at most; 0 keeps none.
        device_deliveries: answers of one device that are promised or kept.
        deliver_bytes: bytes of all answers that are promised or kept, as far as they may come to.
        prefixes, prefix_ttl: texts of sessions that are over, kept so that their edge can go on from them, the
            oldest dropped first, and for how many seconds. 0 keeps none, and no prefix is ever known.
    """

    worker: str
    versions: tuple[str, ...]
    facts: VersionFacts
    capacity: int = 64
    room: int | None = None
    device_sessions: int = 2**31
    device_tokens: int = 2**31
    lease: int = waiting.LEASE
    deliver_for: int = 0
    device_deliveries: int = 64
    deliver_bytes: int = 64_000_000
    prefixes: int = 0
    prefix_ttl: float = 600.0


class WorkerState(StrEnum):
    """Where a session stands at a worker."""

    ABSENT = "absent"
    LIVE = "live"
    FINISHED = "finished"
    TOMB = "tomb"


class WorkerEvent(StrEnum):
    """Events of a session at a worker: messages, words of the engine, what time and the worker do."""

    OPEN = "open"
    DRAFT = "draft"
    POLL = "poll"
    CLOSE = "close"
    RESULT = "result"
    FAILED = "failed forward"
    SILENT = "silent edge"
    EXPIRED = "lease over"
    DISPLACED = "displaced"
    RELEASED = "worker leaves"
    YIELDED = "place for another device"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WorkItem:
    """A session's share of the next forward.

    The engine computes the target's tokens for positions `start`, `start + 1`, … up to and including the first
    that differs from `draft`, or one past its end, and never past an end-of-text id: 1 to ``len(draft) + 1``
    tokens. It may stop earlier, after any of them; then the rest of the draft comes again. An engine that drafts may
    go on from `draft` with up to `room` tokens of its own, which are decided alike: up to `room` more tokens. Tokens
    that the text's grammar forces come on top, wherever they are. It gives all to `WorkerMachine.result`, in any order
    among items.

    Attributes:
        version: target version that decides.
        start: position of the first token to decide, in generated tokens; ``context`` has
            ``len(prompt) + start`` tokens.
        digest: digest of the chain at `start`; the result is dropped if the session's chain has changed meanwhile.
        context: prompt + decided tokens; a view, valid for ever.
        prompt_length: where the generated tokens begin in `context`. The noise's absolute position of the
            first token to decide is ``len(context)``.
        draft: drafted tokens for positions `start` on; cut so that the limit is never passed.
        identity: sampling parameters, seed, end-of-text ids.
        seq: newest batch that went in, echoed for round-trip samples.
        waiting_since: when that batch arrived, on the clock of `now`; queueing time counts from here.
        batches: edge's batches that went in.
        room: tokens that an engine may draft behind `draft`: as the edge wants it, and as far as its credit goes; all
            of this for one that writes by itself.
    """

    key: SessionKey
    version: str
    start: int
    digest: int
    context: Sequence[int]
    prompt_length: int
    draft: tuple[int, ...]
    identity: Identity
    seq: int
    waiting_since: float
    room: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class DraftRows:
    """Rows that a forward verified for a session.

    Attributes:
        drafted: tokens that the engine drafted itself.
        granted: rows for the edge's draft, if that was not all of it.
        forced: decided tokens that the grammar left no choice about, those of the edge's draft aside.
    """

    drafted: int = 0
    granted: int | None = None
    forced: int = 0


ALL_ROWS = DraftRows()
"""All of the edge's draft, and nothing else."""


@dataclass(slots=True)
class VersionCounters:
    """Counts over all sessions of a target version.

    Attributes:
        prompt: tokens of prompts.
        known: tokens of these that the worker kept from an earlier text; memory may have been too short for their keys
            and values, which are then read again.
        decided: tokens.
        drafts: drafts of edges with what the engine drafted behind them, as far as they got rows.
    """

    prompt: int = 0
    known: int = 0
    decided: int = 0
    drafts: DraftTally = field(default_factory=DraftTally)


@dataclass(slots=True)
class WorkerCounters:
    """Counts over all sessions since the machine began.

    Attributes:
        opened: sessions created.
        reopened: merges of a higher attempt into a session.
        busy: opens refused because full, draining, or of a version that is not held.
        over_quota: busy answers because their device holds as much as one may.
        yielded: sessions that gave their place to another device.
        inherited: sessions created that go on from an earlier text.
        need_prefix: opens that named a prefix which is not here.
        unknown: drafts for sessions that are not here.
        rejected: illegal messages, answered with a typed error.
        held_dropped: batches that overflowed a session's hold buffer.
        stale, duplicate: batches without use.
        gaps: reported.
        items: given to the engine.
        look_ahead: items without a batch.
        drafted: tokens of edges' drafts in items.
        decided: tokens.
        accepted: decided tokens that the edge had drafted.
        worker_accepted: decided tokens that the engine had drafted.
        forced: decided tokens that a grammar left no choice about.
        dropped: results for a chain that had changed or gone.
        failed: items that the engine could not compute.
        verdicts: sent.
        undeliverable: opens that asked for a delivery and were granted none, for want of a place.
        delivered: answers left at the broker, whole or as far as they were written.
        closed, expired: sessions freed by the edge, by their lease.
        ignored: messages without consequence.
        versions: counts by target version, of those that are held.
    """

    opened: int = 0
    reopened: int = 0
    busy: int = 0
    over_quota: int = 0
    yielded: int = 0
    inherited: int = 0
    need_prefix: int = 0
    unknown: int = 0
    rejected: int = 0
    held_dropped: int = 0
    stale: int = 0
    duplicate: int = 0
    gaps: int = 0
    items: int = 0
    look_ahead: int = 0
    drafted: int = 0
    decided: int = 0
    accepted: int = 0
    worker_accepted: int = 0
    forced: int = 0
    dropped: int = 0
    failed: int = 0
    verdicts: int = 0
    undeliverable: int = 0
    delivered: int = 0
    closed: int = 0
    expired: int = 0
    ignored: int = 0
    versions: defaultdict[str, VersionCounters] = field(default_factory=lambda: defaultdict(VersionCounters))
