"""Input of an edge session, and what can be read off it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flexspec_mq import waiting
from flexspec_mq.daemon.tally import DraftTally
from flexspec_mq.protocol.effects import Origin
from schemas.messages import Identity


@dataclass(frozen=True, slots=True)
class Reuse:
    """A worker that has probably read the beginning of a prompt, for an earlier session of this edge.

    Attributes:
        worker: name of the worker on topics.
        count: tokens of the prompt, fewer than all.
        grammar: digest of the grammar that it has had with that session; None without one.
    """

    worker: str
    count: int
    grammar: bytes | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A text that a worker holds at the end of a session.

    Attributes:
        tokens: prompt and generated tokens that the worker is known to hold.
        grammar: digest of its grammar; None without one.
    """

    worker: str
    tokens: tuple[int, ...]
    grammar: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRequest:
    """A generation that is asked for.

    Attributes:
        session: random u32, not in use at this edge and never used again.
        version: target version, for life.
        identity: all that determines the text beside the prompt.
        prompt: token ids, at least one.
        committed: tokens already decided, when an interrupted text is resumed. No `Commit` is given for them.
        attempts: number of the newest attempt of earlier incarnations, at most; this one goes on from there.
        deliver: seconds that the answer shall be kept at the broker, should this edge be away when it is written; 0
            asks for no delivery.
        finish_at: stop strings. Called with the committed tokens after each new one; anything but None ends the
            text right there (its value should be that length; a shorter one cannot take back what was shown).
        keyed: messages are under keys, those of opens to any worker less secret than a worker's own: such opens hold
            nothing but the prompt, and the worker that answers is told the rest.
        answer_timeout: seconds until silence is worth a question, while the round trip is unknown.
        reuse: where to open first, naming the beginning of the prompt instead of sending it.
        grammar: source of the identity's grammar, compressed.
    """

    session: int
    version: str
    identity: Identity
    prompt: tuple[int, ...]
    committed: tuple[int, ...] = ()
    attempts: int = 0
    deliver: int = 0
    finish_at: Callable[[Sequence[int]], int | None] | None = None
    keyed: bool = False
    answer_timeout: float = waiting.ANSWER
    reuse: Reuse | None = None
    grammar: bytes = b""


class EdgeState(StrEnum):
    """Where a session stands. Being offline is a flag beside it."""

    NEW = "new"
    OPENING = "opening"
    ACTIVE = "active"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class DraftToken:
    """A drafted token.

    Attributes:
        token: id of the token.
        confidence: probability, 0 to 1, that the target takes it, given that it takes all before it.
        origin: who drafted it.
        sure: probability, 0 to 1, that the draft gives its likeliest token here: how sure it is of itself.
    """

    token: int
    confidence: float = 1.0
    origin: Origin = "model"
    sure: float = 1.0


@dataclass(frozen=True, slots=True)
class DraftRequest:
    """Request to a drafter for a session: the token after `context`, and maybe some more.

    The drafter answers each token with `EdgeSession.drafted(start, digest, token, now)`, asking anew for the
    request after each, so that a rejection reaches it within one token.

    Attributes:
        session: whose.
        context: prompt, committed tokens and pending draft; a view, valid for ever.
        identity: the session's; its sampling parameters are the target's, so that both draw the same noise.
        committed: tokens of `context` that are committed, the prompt included; the others may go again.
        prompt_length: tokens of `context` that are the prompt.
        start: position of that token, counted in generated tokens.
        digest: digest of the chain at `start`; names the prefix, so late answers are recognised.
        most: tokens until the batch is full, at least 1; those that the grammar forces come on top.
        joint_acceptance: probability that the target takes all of the pending draft, 1 without one.
        confidence_threshold: the joint acceptance below which a token is not wanted, see `Plan`.
        prediction: token ids that the text will probably have, as the user says.
        device: whose text it is, where a drafter serves several.
        answers: earlier answers that it may repeat; None without any.
        grammar: `CompiledGrammar` of the text; None without one, or where nothing reads it.
        allowed: `AllowedTokens` behind `context`; between drafters, None where all are.
        model_only: nothing is to be looked up: the text is read as it is drafted, or the model is to read the context.
    """

    session: int
    context: Sequence[int]
    identity: Identity
    committed: int
    prompt_length: int = 0
    start: int = 0
    digest: int = 0
    most: int = 1
    joint_acceptance: float = 1.0
    confidence_threshold: float = 0.0
    prediction: tuple[int, ...] = ()
    device: str = ""
    answers: Callable[[], Any] | None = None
    grammar: Any = None
    allowed: Any = None
    model_only: bool = False


@dataclass(slots=True)
class EdgeCounters:
    """Counts since the session began.

    Attributes:
        opens: published, re-opens included.
        reopens: opens after the first, without those that tell a worker which has answered what is committed.
        polls: published.
        batches: draft messages published, those that came with an open included.
        acks: drafts without tokens that only return look-ahead credit or change it.
        rounds: verdicts that committed something.
        committed: tokens that these committed.
        drafts: drafts of device and worker that met the target's decision, those of one verdict as one.
        verdicts: received, of any kind.
        deliveries: the same, of answers that a worker had left at the broker.
        drafted: tokens that the drafter gave and that fitted.
        judged: drafted tokens that met the target's decision.
        accepted: judged tokens that were equal to it.
        diverged: verdicts whose digest disagreed with our chain.
        early: verdicts that start beyond our chain.
        looked_up: judged tokens that a lookup had drafted.
        looked_up_accepted: accepted tokens among these.
        worker_judged: tokens that the worker drafted itself and the target's decision met.
        worker_accepted: accepted tokens of the worker's draft.
        forced: tokens that the grammar left no choice about.
        withheld: drafter results not taken because of the plan's confidence threshold.
        stale: drafter results for a prefix that is gone.
        busy, unknown: errors of that kind.
        named: opens that named the beginning of the prompt.
        misses: named prefixes that the worker could not use.
        ignored: messages without consequence in the state that they met.
        closes: published.
    """

    opens: int = 0
    reopens: int = 0
    polls: int = 0
    batches: int = 0
    acks: int = 0
    rounds: int = 0
    committed: int = 0
    drafts: DraftTally = field(default_factory=DraftTally)
    verdicts: int = 0
    deliveries: int = 0
    drafted: int = 0
    judged: int = 0
    accepted: int = 0
    diverged: int = 0
    looked_up: int = 0
    looked_up_accepted: int = 0
    worker_judged: int = 0
    worker_accepted: int = 0
    forced: int = 0
    withheld: int = 0
    early: int = 0
    stale: int = 0
    busy: int = 0
    unknown: int = 0
    named: int = 0
    misses: int = 0
    ignored: int = 0
    closes: int = 0

    @property
    def proposed(self) -> int:
        """Tokens that the device drafted, of use or not."""
        return self.drafted + self.withheld + self.stale

    def meets(self, drafted: Sequence[DraftToken], *, wrong: bool) -> int:
        """The target has decided where these were drafted; `wrong` says that the last of them was.

        Returns:
            Accepted tokens.
        """
        accepted = self.accepted
        for place, token in enumerate(drafted, 1):
            right = not (wrong and place == len(drafted))
            if token.origin == "grammar":
                self.forced += right
                continue
            self.judged += 1
            self.accepted += right
            if token.origin == "lookup":
                self.looked_up += 1
                self.looked_up_accepted += right
        return self.accepted - accepted


class EdgeEvent(StrEnum):
    """Events of a session."""

    START = "start"
    VERDICT = "verdict"
    DELIVERY = "delivery"
    BUSY = "error: busy"
    NEED_PREFIX = "error: need prefix"
    UNKNOWN = "error: unknown session"
    INTERNAL = "error: internal"
    REFUSED = "error: refused"
    DRAFTED = "drafted token"
    NO_DRAFT = "drafter stops"
    OPEN_DUE = "open due"
    SILENT = "silent"
    STALLED = "stalled"
    FALL_BACK = "draft alone"
    LEASE_DUE = "lease due"
    LINK_UP = "link up"
    LINK_DOWN = "link down"
    GONE = "worker gone"
    ONLINE = "worker online"
    NO_WORKER = "nobody subscribes"
    PREFIX_LOST = "named worker gone"
    CANCEL = "cancel"
