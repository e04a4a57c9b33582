"""The session messages, version 1 of the wire protocol.

Each message travels as ``[type, field, field, …]`` behind one flag byte. Fields are only ever appended, with
a default; types never change; unknown fields at the end are skipped. Token ids are ``tuple[int, …]`` here and
a LEB128 string on the wire. `docs/protocol.md` gives the meaning of each field.

Positions count generated tokens: 0 is the first one after the prompt.
"""

from enum import IntEnum
from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

PROTOCOL_VERSION = 1
NOISE_VERSION = 2
"""The rule by which tokens are chosen, with its noise: `flexspec_mq.sampling`. Version 1 drew Philox' words."""
PENALTIES_VERSION = 3
"""The same rule for texts with penalties or a bias of logits, which a worker of an older release refuses by this."""
KEYED = 15
"""In the flag byte, where a compression code is else: the payload is under keys."""

MAX_PROMPT_TOKENS = 131_072
MAX_DRAFT_TOKENS = 64
MAX_VERDICT_TOKENS = 320
MAX_DELIVERED_TOKENS = 49_152
"""Tokens of an answer that is delivered: a payload holds so many of any vocabulary, padded and sealed."""
MAX_AHEAD = 256
MAX_ANSWERS = MAX_AHEAD + 16
"""Messages by which a worker answers one of an edge's at most: a verdict for each token of the longest look-ahead, and
what an open or a poll has sent again."""
MAX_IN_FLIGHT = 8
MAX_TOKEN_ID = 2**24 - 1
MAX_POSITION = 2**20
"""Generated tokens of a text at most."""
MAX_MILLIS = 10_000_000
MAX_GRAMMAR = 65_536
"""Bytes of a grammar, compressed."""

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
# msgspec has no bounds above 2**63; msgpack integers end at 2**64 - 1 anyway.
U64 = Annotated[int, Meta(ge=0, extra_json_schema={"maximum": 2**64 - 1})]
Position = Annotated[int, Meta(ge=0, le=MAX_POSITION)]
Counter = Annotated[int, Meta(ge=0, le=2**31 - 1)]
MOST_KEPT = 604_800
"""Seconds for which a broker keeps an answer at most."""
Keep = Annotated[int, Meta(ge=0, le=MOST_KEPT)]
Millis = Annotated[int, Meta(ge=0, le=MAX_MILLIS)]
# Python's `$` also matches before a last newline, hence the look-ahead.
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$(?!\n)")]
TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
PromptTokens = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_PROMPT_TOKENS)]
DraftTokens = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_DRAFT_TOKENS)]
DeliveredTokens = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_DELIVERED_TOKENS)]
VerdictTokens = Annotated[tuple[TokenId, ...], Meta(max_length=MAX_VERDICT_TOKENS)]
DraftLength = Annotated[int, Meta(ge=0, le=MAX_DRAFT_TOKENS)]
Temperature = Annotated[float, Meta(ge=0.0, le=100.0)]
TopK = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
TopP = Annotated[float, Meta(gt=0.0, le=1.0)]
MinP = Annotated[float, Meta(ge=0.0, le=1.0)]
RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=100.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Bias = Annotated[float, Meta(ge=-100.0, le=100.0)]
LogitBias = Annotated[tuple[tuple[TokenId, Bias], ...], Meta(max_length=1024)]


class Fin(IntEnum):
    """Flags of a verdict beside its tokens."""

    NONE = 0
    EOS = 1
    LENGTH = 2
    GAP = 3


class CloseReason(IntEnum):
    """Why the edge closes a session at a worker."""

    DONE = 0
    CANCELLED = 1
    ELSEWHERE = 2
    FAILED = 3


class ErrorCode(IntEnum):
    """Typed errors from a worker.

    `BUSY` carries a retry hint; `UNKNOWN` means: re-open; `NEED_PREFIX`: open in full, anywhere; `GRAMMAR` and
    `SAMPLING`: the grammar, or the sampling, cannot be used, and the detail says why; `SERVER`: nor will the server of
    models behind the worker go on with this text, however often it is asked.
    """

    BUSY = 1
    UNKNOWN = 2
    PROTOCOL = 3
    FINGERPRINT = 4
    CONTEXT = 5
    MALFORMED = 6
    INTERNAL = 7
    NEED_PREFIX = 8
    GRAMMAR = 9
    SAMPLING = 10
    SERVER = 11


class Sampling(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """How a token is chosen from logits.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of most likely tokens with at least this mass; 1.0 keeps all.
        seed: key of the common random numbers.
        min_p: keep tokens that are at least so likely beside the likeliest one; 0.0 keeps all.
        repetition_penalty: divides positive logits of tokens of prompt and text, and multiplies negative ones; 1.0 is
            off.
        frequency_penalty: taken off a token's logit for each time that the text has it.
        presence_penalty: taken off the logits of tokens that the text has.
        logit_bias: added to the logits of token ids, which are ascending.
    """

    temperature: Temperature = 0.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    seed: U64 = 0
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = ()

    def __post_init__(self) -> None:
        """Make equal numbers equal bytes, since both sides hash them: 1 becomes 1.0 and -0.0 becomes 0.0.

        Raises:
            ValueError: ids of the bias are not ascending.
        """
        for name in _FRACTIONS:
            msgspec.structs.force_setattr(self, name, float(getattr(self, name)) + 0.0)
        if self.logit_bias:
            bias = tuple((token, float(value) + 0.0) for token, value in self.logit_bias)
            if any(one >= other for (one, _), (other, _) in pairwise(bias)):
                raise ValueError("the ids of logit_bias are not ascending")
            msgspec.structs.force_setattr(self, "logit_bias", bias)

    @property
    def penalized(self) -> bool:
        """Whether logits are changed before a token is chosen by them."""
        penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        return penalties != (1.0, 0.0, 0.0) or bool(self.logit_bias)

    @property
    def rule(self) -> int:
        """`NOISE_VERSION`, or `PENALTIES_VERSION`."""
        return PENALTIES_VERSION if self.penalized else NOISE_VERSION


_FRACTIONS = tuple(name for name, kind in Sampling.__annotations__.items() if kind.__origin__ is float)
AS_THE_TARGET = Sampling(1.0)
"""Sampling where nobody says anything else."""


class PartialSampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a target's makers recommend to choose its tokens, or how a request wants them: None leaves a value open.

    Attributes:
        temperature: 0 is greedy.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep this mass of them.
        min_p: keep those that are at least so likely beside the likeliest one.
    """

    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: TopP | None = None
    min_p: MinP | None = None

    def over(self, base: Sampling) -> Sampling:
        """The same, with the values of `base` where they are left open, and its seed."""
        stated = msgspec.structs.asdict(self)
        return msgspec.structs.replace(base, **{name: one for name, one in stated.items() if one is not None})


LEFT_OPEN = PartialSampling()


class Identity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """All that determines the text beside the prompt. The digest chain's root is made from it.

    Attributes:
        noise: `Sampling.rule` of the edge; a worker refuses any but its own.
        fingerprint: BLAKE2b-128 of vocabulary contents, special tokens and chat template of the edge's tokenizer.
        sampling: how its tokens are chosen.
        eos: token ids that end the text.
        ignore_eos: go on to `limit`.
        limit: absolute generated length at which the text ends.
        grammar: BLAKE2b-128 of its grammar's source and of what reads it, see `flexspec_mq.grammar`; None without one.
    """

    noise: Counter
    fingerprint: Annotated[bytes, Meta(min_length=16, max_length=16)]
    sampling: Sampling
    eos: Annotated[tuple[TokenId, ...], Meta(max_length=32)]
    ignore_eos: bool
    limit: Position
    grammar: Annotated[bytes, Meta(min_length=16, max_length=16)] | None = None


class Prefix(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=False):
    """The beginning of a prompt that the worker has read for an earlier session of the same edge.

    Attributes:
        count: tokens, at least one.
        name: BLAKE2b-128 of the version, the vocabulary's fingerprint and these tokens.
    """

    count: Annotated[int, Meta(ge=1, le=MAX_PROMPT_TOKENS)]
    name: Annotated[bytes, Meta(min_length=16, max_length=16)]


class Open(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Edge → a worker of a version: start or resume a session.

    `prompt`, `committed` and `draft` hold at most `MAX_PROMPT_TOKENS` together.

    Attributes:
        session: random, unique at this edge.
        attempt: counts published opens, from 1.
        identity: all that determines the text.
        prompt: token ids, at least one; with `prefix`, those that follow it.
        committed: generated tokens that the edge holds already.
        ahead: look-ahead credit in tokens.
        seq: number of the draft that this message carries.
        draft: drafted tokens that follow `committed`.
        prefix: how the prompt begins, if that is left out. Only in opens to one worker's own topic.
        worker_draft: tokens that the worker may draft itself for one forward, behind ours, out of the credit.
        resumes: committed tokens that the edge has and tells in its next open, to the worker that answers.
        grammar: source of the identity's grammar, compressed; empty without one, and in opens to the own topic of a
            worker that has had it.
        deliver: seconds that the answer shall be kept at the broker, where the edge may be away when it is written;
            0 asks for no delivery.
    """

    session: U32
    attempt: Counter
    identity: Identity
    prompt: Annotated[PromptTokens, Meta(min_length=1)]
    committed: PromptTokens
    ahead: Counter
    seq: Counter
    draft: DraftTokens
    prefix: Prefix | None = None
    worker_draft: DraftLength = 0
    resumes: Position = 0
    grammar: Annotated[bytes, Meta(max_length=MAX_GRAMMAR)] = b""
    deliver: Keep = 0


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    """Fields that drafts and polls share.

    Attributes:
        have: committed length at the edge.
        offset: `start - have`; negative when the worker holds less than the edge.
        digest: digest of the chain at `start`.
        worker_draft: as of an open.
    """

    session: U32
    attempt: Counter
    seq: Counter
    have: Position
    offset: Annotated[int, Meta(ge=-(2**20), le=2**20)]
    digest: U32
    tokens: DraftTokens
    ahead: Counter
    worker_draft: DraftLength = 0

    def __post_init__(self) -> None:
        """Refuse a start before the first generated token.

        Raises:
            ValueError: `offset` is below ``-have``.
        """
        if self.start < 0:
            raise ValueError(f"start {self.start} is before the first generated token")

    @property
    def start(self) -> int:
        """Position of the first token."""
        return self.have + self.offset


class Draft(_Batch, frozen=True, array_like=True, tag=2):
    """Edge → the worker that holds the session: a contiguous batch of drafted tokens."""


class Poll(_Batch, frozen=True, array_like=True, tag=3):
    """A draft that must be answered. Retransmission, keepalive and reconnect are all polls."""


class Close(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Edge → worker: the session is over here. Acknowledges the final verdict; sent once."""

    session: U32
    attempt: Counter
    have: Position
    reason: CloseReason


NO_SESSION = Close(0, 1, 0, CloseReason.FAILED)
"""A message that a worker reads and has nothing to do for: no session has the number 0."""


class Verdict(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Worker → edge: tokens that the target decided.

    Attributes:
        attempt: the open that this worker holds.
        echo: newest `seq` seen, for round-trip samples; 0 before any.
        start: position of the first token (``from`` in the protocol's text).
        tokens: decided tokens, maybe none.
        digest: digest of the chain after the last token.
        fin: cross-check of the finish, or gap.
        queue: ms that the batch waited before its forward; in an answer without a forward, ms for which the session's
            work has waited for its turn until now, and 0 if nothing waits or the worker makes no headway.
        compute: ms of the forward; 0 without one.
        worker: only until the edge is known to have it (accept).
        lease: seconds; 0 when `worker` is empty.
        drafted: tokens that the worker drafted itself, accepted or not, since the last verdict with tokens.
        granted: how many of the edge's drafted tokens the newest forward verified, if others had to wait for their
            turn, and no more than a batch has; None if none had to.
        recommended: beside `worker`, where the session's identity has other values; an edge may have left them open.
        forced: tokens behind which the grammar left no choice, since the last verdict with tokens; nobody drafted them.
        delivers: beside `worker`, the `deliver` of the open that this worker grants; 0 for none.
    """

    session: U32
    attempt: Counter
    echo: Counter
    start: Position
    tokens: VerdictTokens
    digest: U32
    fin: Fin
    queue: Millis
    compute: Millis
    worker: Name | None = None
    lease: Annotated[int, Meta(ge=0, le=86_400)] = 0
    drafted: Counter = 0
    granted: DraftLength | None = None
    recommended: Sampling | None = None
    forced: Counter = 0
    delivers: Keep = 0


class Error(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Worker → edge: a typed error. `retry` in ms, for `BUSY`; `detail` is for people."""

    session: U32
    attempt: Counter
    code: ErrorCode
    retry: Millis
    worker: Name
    detail: Annotated[str, Meta(max_length=300)] = ""


class Delivery(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Worker → edge, kept by the broker until the edge fetches it: an answer that the edge was not there to read.

    Attributes:
        attempt: the open that this worker holds.
        tokens: all that the target decided, from the first generated one on.
        digest: digest of the chain after the last token.
        fin: how the text ended; `NONE` where its worker left before, and it goes on elsewhere.
        worker: name of the worker, which keeps the session until it is closed.
    """

    session: U32
    attempt: Counter
    tokens: DeliveredTokens
    digest: U32
    fin: Fin
    worker: Name


Message = Open | Draft | Poll | Close | Verdict | Error | Delivery
