"""Retained documents of workers and edges: JSON-like maps, because people and dashboards read them."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.blobs import MAX_BLOB, BlobName
from schemas.catalogue import MAX_VERSIONS
from schemas.messages import LEFT_OPEN, MAX_TOKEN_ID, Name, PartialSampling, TokenId
from schemas.statement import MAX_CREDENTIAL

MAX_TEXT = 256
"""Characters."""
Text = Annotated[str, Meta(max_length=MAX_TEXT)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Epoch = Annotated[int, Meta(ge=0, le=2**53)]  # exact in JavaScript too
IncarnationNumber = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e11)]
Total = Epoch
"""A count that may grow for years."""
MAX_HELD = 40
"""Versions of a worker at most: all of a family, and some that are on their way out."""
DIGEST = 8
"""First bytes of a digest that a status tells."""
Beginning = Annotated[str, Meta(pattern="^([0-9a-f]{16})?$")]
"""Beginning of a digest, in hex."""
MAX_WHY = 120
"""Characters."""
MAX_MORE = 2048
"""Characters, of all versions together, so that a status of many versions can still be read."""
MAX_MS = 60_000.0
"""Longest time of a forward that a status may tell, in milliseconds."""
Milliseconds = Annotated[float, Meta(ge=0.0, le=MAX_MS)]
TokenIds = Annotated[tuple[TokenId, ...], Meta(max_length=32)]
MAX_ADDED = 4096
"""Added tokens of a tokenizer at most."""


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version at a worker.

    A status is a worker's word, which nobody signs. The digest in it only says which of the heads that have borne a
    name it is about, so its beginning is enough: what a worker loads has the whole digest of the signed catalogue.
    Two heads that begin alike can be made in some 2^32 tries, but both must be signed under one name to be taken for
    each other; and a worker that lies can tell any digest.

    Attributes:
        name: on topics and in the API.
        digest: the first 8 bytes of the SHA-256 of its head's manifest, in hex; empty where it is of no family.
        state: ``ready`` takes new sessions, ``draining`` only goes on with texts that have begun. ``loading`` is not
            here yet, and ``refused`` cannot be.
        exactness: as of the worker, for this version; empty where it is the worker's.
        why: beginning of the reason for which it is refused, or not here yet.
        more: rest of the reason.
    """

    name: Name
    digest: Beginning = ""
    state: Literal["loading", "ready", "draining", "refused"] = "ready"
    exactness: Literal["", "exact", "exact up to ties", "the server's", "unknown"] = ""
    why: Annotated[str, Meta(max_length=MAX_WHY)] = ""
    more: Annotated[str, Meta(max_length=MAX_MORE)] = ""

    @property
    def reason(self) -> str:
        """Why it is refused, or not here yet."""
        return self.why + self.more


class TokenizerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tokenizer in short: enough to say in which way another one differs.

    Attributes:
        tokens: size of the vocabulary, added tokens included.
        vocabulary: BLAKE2b-128 of what its ids mean, in hex: the token of each, and which of them texts do not show.
        eos: ids that end a text, ascending.
        template: the first 8 bytes of the BLAKE2b-128 of its chat template, in hex; empty without one.
        rows: token ids that the model has, padding included; 0 of a worker that tells no `TargetText`.
        file: name of the blob that a device without this tokenizer can fetch from the worker: its tokenizer.json in
            one frame of zstd; empty where it gives none.
    """

    tokens: Count
    vocabulary: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    eos: TokenIds = ()
    template: Beginning = ""
    rows: Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID + 1)] = 0
    file: Annotated[str, Meta(pattern="^([0-9a-f]{32})?$")] = ""


class AddedToken(msgspec.Struct, frozen=True, array_like=True):
    """A token that stands beside the vocabulary which a tokenizer was trained with, such as the end of a turn.

    Attributes:
        special: whether decoded texts leave it out.
        normalized: whether it is looked for in the normalized text.
        lstrip: whether it takes the blanks before it.
        rstrip: whether it takes the blanks behind it.
        single_word: whether it must not be part of a longer word.
    """

    id: TokenId
    content: Annotated[str, Meta(min_length=1, max_length=1024)]
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class TargetText(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How texts of a worker's target are written and read, on ``f1/t/<worker>``.

    A device makes a tokenizer of its own one and this. The fingerprint of that must be the one of the worker's status,
    so what is said here cannot be other than what the target has.

    Attributes:
        ordinary: ids of tokens that are not added ones are below this.
        added: all added tokens, by ascending id.
        special: role (``eos_token`` …) → token or tokens.
        template: chat template, by name; the usual only one is named ``default``. Empty for a base model.
        before: ids that the tokenizer puts before a text that is no conversation.
        after: ids that it puts behind one.
        context: positions, prompt and new tokens together.
    """

    ordinary: Count
    added: Annotated[tuple[AddedToken, ...], Meta(max_length=MAX_ADDED)]
    special: dict[str, str | tuple[str, ...]]
    template: dict[str, str]
    before: TokenIds = ()
    after: TokenIds = ()
    context: Count


class DraftOffer(msgspec.Struct, frozen=True):
    """A draft that a device without one can fetch from the worker.

    Attributes:
        file: name of the blob: weights in few bits and a tokenizer, safetensors in one frame of zstd.
        size: bytes of it.
    """

    file: BlobName
    size: Annotated[int, Meta(ge=1, le=MAX_BLOB)]


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A cloud worker's word of itself on ``f1/w/<worker>``; its will says ``gone``.

    Fields at their default are left out, since edges on metered links get this every few seconds.

    Attributes:
        epoch: start time of this process in ms, by its own clock; for people.
        at: seconds since the Unix epoch, when this was written.
        exactness: ``exact``, or ``exact up to ties`` where the proof of batch-invariance failed; ``the server's`` where
            a server of models writes, and tells no more than its text.
        weights: the target's: ``native`` is as `dtype` says, else how many bits they have.
        flip_rate: measured share of tokens that differ, where not exact.
        load: sessions held now.
        capacity: sessions that it would hold.
        lease: seconds.
        recommended: how the target's makers recommend to sample.
        draft: name of the draft that it runs for sessions that ask for it, for all versions alike; empty without.
        versions: all that it holds or should hold, `version` included; empty at a worker that knows of one only,
            which is ready.
        life: number of its incarnation, drawn at random, also in its will: tells it from others of its
            name, whatever their clocks say.
        credential: signed by the deployment, of a worker with keys: the versions that it may serve, and the key that
            signs its statuses. A device with keys takes from a status only those versions.
        tokenizer: the target's, in short; `fingerprint` covers all of it.
        forward_ms: time of a forward of one token of one session, taken when the worker started; None where it
            was not. A node plans by it until it has measured its own.
        row_ms: time that one drafted token more added.
        draft_ms: time of a token of the worker's own draft; None without a model.
        draft_read_ms: time by which a token of a prompt holds up forwards, as that draft reads it; 0 where it reads
            beside them. None without a model.
        grammar: name and version of what reads grammars there, as it goes into their digests; empty where nothing does.
        target: name of the target, for people.
        offer: draft that it gives to devices; None where it gives none.
        request_bytes: bytes of a request that it fetches as a blob, where that is too long for a message; 0 is none.
        image_bytes: bytes of a request's images together, as files; 0 takes none.
        signature: Ed25519, of a worker with keys, over the document as it travels without this field, which is the
            last. A device with keys takes no status without it.
    """

    state: Literal["online", "draining", "gone"]
    epoch: Epoch
    at: Seconds
    worker: Name
    version: Text = ""
    protocol: Count = 1
    fingerprint: Text = ""
    exactness: Literal["exact", "exact up to ties", "the server's", "unknown"] = "unknown"
    flip_rate: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    device: Text = ""
    dtype: Text = ""
    weights: Text = ""
    load: Count = 0
    capacity: Count = 0
    lease: Annotated[int, Meta(ge=0, le=86_400)] = 0
    recommended: PartialSampling = LEFT_OPEN
    draft: Text = ""
    versions: Annotated[tuple[VersionStatus, ...], Meta(max_length=MAX_HELD)] = ()
    life: IncarnationNumber = 0
    credential: Annotated[bytes, Meta(max_length=MAX_CREDENTIAL)] = b""
    tokenizer: TokenizerStatus | None = None
    forward_ms: Milliseconds | None = None
    row_ms: Milliseconds | None = None
    draft_ms: Milliseconds | None = None
    draft_read_ms: Milliseconds | None = None
    grammar: Annotated[str, Meta(max_length=64)] = ""
    target: Text = ""
    offer: DraftOffer | None = None
    request_bytes: Count = 0
    image_bytes: Count = 0
    signature: Annotated[bytes, Meta(max_length=64)] = b""

    @property
    def ready(self) -> tuple[VersionStatus, ...]:
        """Versions of which it takes new sessions while it is online."""
        if self.versions:
            return tuple(version for version in self.versions if version.state == "ready")
        return (VersionStatus(name=self.version),) if self.version else ()


class CatalogueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of a family's catalogue at an edge node.

    Attributes:
        family: name of the family that it follows.
        state: ``none`` before the first catalogue; past its expiry, ``expired``: what is known goes on.
        epoch: the catalogue's, in seconds since the Unix epoch, as `expires`.
        refused: messages on the family's topics that were refused since the node started.
        why: the last of them was refused for.
        alarm: two different catalogues or key sets carried one number, both with valid signatures.
    """

    family: Text
    state: Literal["none", "current", "expired"]
    epoch: Epoch = 0
    expires: Epoch = 0
    refused: Total = 0
    why: Text = ""
    alarm: Text = ""


class VersionFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one version at an edge since it started.

    Attributes:
        digest: the first 8 bytes of the SHA-256 of its head's manifest, in hex; empty where no catalogue tells it.
        answers: texts that were complete.
        errors: texts that failed; those that a user ended are neither.
        drafted: draft tokens that the target judged.
        accepted: drafted tokens that were right.
        low: lower end of the Wilson interval (95 %) of the acceptance.
        high: upper end of the interval.
        tokens: all texts' tokens after the first commit.
        seconds: time that these took.
    """

    name: Text
    digest: Beginning = ""
    answers: Count = 0
    errors: Count = 0
    drafted: Total = 0
    accepted: Total = 0
    low: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    high: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    tokens: Total = 0
    seconds: Seconds = 0.0


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """Time for which an edge node had lost its link to the broker.

    Attributes:
        ended: seconds since the Unix epoch.
        seconds: length.
    """

    ended: Seconds
    seconds: Seconds


class ConnectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of an edge node as its users see it.

    Attributes:
        state: ``degraded`` has a link to the broker, but no text could begin now, or texts wait.
        since: when it began, in seconds since the Unix epoch.
        why: reason of the state; empty of ``online``.
        waiting: texts that wait for the link, for a worker or for their turn.
        outage: the last one that is over; null before any.
    """

    state: Literal["online", "degraded", "offline"]
    since: Seconds
    why: str = ""
    waiting: Count = 0
    outage: Outage | None = None


class EdgeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An edge node's word of itself on ``f1/e/<edge>``; its will says ``gone``.

    Attributes:
        catalogue: None on a node that follows no family.
        versions: figures of the family's versions that have written for it, the last one at the end.
        life: as of a worker.
        waiting: texts that wait for the link, for a worker or for their turn.
        outage: the last one; None before any.
    """

    state: Literal["online", "gone"]
    epoch: Epoch
    at: Seconds
    edge: Name
    draft: Text = ""
    sessions: Count = 0
    catalogue: CatalogueStatus | None = None
    versions: Annotated[tuple[VersionFigures, ...], Meta(max_length=MAX_VERSIONS)] = ()
    life: IncarnationNumber = 0
    waiting: Count = 0
    outage: Outage | None = None
