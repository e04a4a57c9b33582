"""Everything of ours that reads bytes from a network and keeps no state."""

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np  # noqa: F401  as a worker has: it reads long messages by arrays
import zstandard

from edge_node.api.errors import ApiError
from edge_node.api.http.bodies import parse_object
from edge_node.api.openai.requests import chat_request, completion_request
from flexspec_mq import topics
from flexspec_mq.catalogue.refusals import SignedRefused
from flexspec_mq.catalogue.signing import Body, PrivateKey, opened, seal
from flexspec_mq.codec import MAX_PAYLOAD_BYTES, Codec
from flexspec_mq.codec.codec import StatusT, flag_byte
from flexspec_mq.codec.limits import MAX_EXPANSION
from flexspec_mq.codec.tokens import pack_tokens
from flexspec_mq.codec.wire import message_to_body
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.effects import Reply
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import VersionFacts, WorkerConfig
from flexspec_mq.transport.properties import limits_in
from lab.fuzz.keyed import readers
from lab.fuzz.mutate import BYTES, DOCUMENTS, MESSAGES, Mutator
from schemas.catalogue import Catalogue, CatalogueVersion, KeySet, VersionState
from schemas.messages import (
    MAX_DRAFT_TOKENS,
    MAX_PROMPT_TOKENS,
    MAX_VERDICT_TOKENS,
    Close,
    CloseReason,
    Delivery,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Message,
    Open,
    Poll,
    Prefix,
    Sampling,
    Verdict,
)
from schemas.status import (
    AddedToken,
    CatalogueStatus,
    EdgeStatus,
    TargetText,
    VersionFigures,
    VersionStatus,
    WorkerStatus,
)

CONTEXT = 8192
"""Tokens that the worker's target can hold: those of the default target."""
FAMILY = "fam"
_MOST_TOPIC = 65_535
"""Bytes that MQTT allows."""
_LONGEST = CONTEXT - 400
"""Tokens of a prompt, or of a text that a worker takes over, that it can go on from."""
_CODEC = Codec()
_IDENTITY = Identity(1, bytes(range(16)), Sampling(0.7, 40, 0.95, 2**64 - 1), (2, 0), False, 512)
_DIGEST = bytes(range(32))
_FRESH = WorkerConfig(
    worker="w1", versions=("v",), facts=VersionFacts(_IDENTITY.fingerprint, CONTEXT, 49_152), prefixes=16
)


class Bound(NamedTuple):
    """Microseconds of processor time that a payload may take: some in any case, and some for each of its bytes."""

    fixed: float
    byte: float

    def limit(self, size: int) -> float:
        """For a payload of so many bytes."""
        return self.fixed + self.byte * size


@dataclass(frozen=True, slots=True)
class Decoder:
    """Something that reads bytes.

    Attributes:
        read: gives the kind of what it read, or ``refused: why``; raises only what would be a fault of ours.
        seeds: payloads that are changed.
        heavy: seeds that cost much, changed now and then.
        mutators: mutators that change them.
        bound: bound of processor time.
    """

    name: str
    read: Callable[[bytes], str]
    seeds: Sequence[bytes]
    mutators: Sequence[Mutator]
    bound: Bound
    heavy: Sequence[bytes] = ()


def decoders() -> list[Decoder]:
    """All of them."""
    worker, edge = Codec(CONTEXT + MAX_DRAFT_TOKENS), Codec(MAX_VERDICT_TOKENS)
    messages, long = [_CODEC.encode(message) for message in _messages()], _long()
    session, status = Bound(400.0, 2.0), Bound(200.0, 0.2)
    template = {"default": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}
    text = TargetText(
        ordinary=9,
        added=(AddedToken(9, "<s>"),),
        special={"eos_token": "<s>"},
        template=template,
        context=2048,
    )
    return [
        Decoder("message at a worker", partial(_message, worker.decode), messages, MESSAGES, session, long),
        Decoder(
            "message at a fresh worker", partial(_fresh, worker), messages, MESSAGES, Bound(1000.0, 5.0), long
        ),
        Decoder("message at an edge", partial(_message, edge.decode), messages, MESSAGES, session, long),
        Decoder("status of a worker", partial(_status, WorkerStatus), _statuses(), DOCUMENTS, status),
        Decoder(
            "text of a target",
            partial(_message, _CODEC.decode_target_text),
            [_CODEC.encode_target_text(text)],
            MESSAGES,
            session,
        ),
        Decoder("status of an edge", partial(_status, EdgeStatus), _statuses(), DOCUMENTS, status),
        Decoder("key set", partial(_signed, KeySet), _catalogues(), BYTES, Bound(400.0, 0.5)),
        Decoder("catalogue", partial(_signed, Catalogue), _catalogues(), BYTES, Bound(400.0, 0.5)),
        *(
            Decoder(name, reader.read, reader.seeds, BYTES, Bound(2500.0, 2.0))
            for name, reader in readers().items()
        ),
        Decoder("topic", lambda data: _topic(data[:_MOST_TOPIC]), _topics(), BYTES, Bound(100.0, 0.05)),
        Decoder("CONNACK", _connack, _connacks(), BYTES, Bound(400.0, 0.5)),
        Decoder("body of the API", _body, _bodies(), DOCUMENTS, Bound(2000.0, 2.0)),
    ]


def _message(read: Callable[[bytes], object], data: bytes) -> str:
    try:
        return type(read(data)).__name__
    except RemoteProtocolError as error:
        return f"refused: {error.message}"


def _fresh(codec: Codec, data: bytes) -> str:
    """As far as a worker's event loop goes: read, and taken by a machine that holds nothing yet."""
    try:
        message = codec.decode(data)
    except RemoteProtocolError as error:
        return f"refused: {error.message}"
    if not isinstance(message, Open | Draft | Poll | Close):
        return "refused: from a worker"
    replies = WorkerMachine(_FRESH).receive("edge", message, 0.0, 0, "v")
    said = [str(one.message) for one in replies if isinstance(one, Reply)]
    return f"{type(message).__name__}: {said}"


def _status(kind: type[StatusT], data: bytes) -> str:
    try:
        return _CODEC.decode_status(data, kind).state
    except RemoteProtocolError as error:
        return f"refused: {error.message}"


def _signed(kind: type[Body], data: bytes) -> str:
    try:
        opened(data, kind, FAMILY)
    except SignedRefused as error:
        return f"refused: {error.message}"
    return kind.__name__


def _topic(data: bytes) -> str:
    name = data.decode("utf-8", "replace")
    sender, worker = topics.sender_of(name), topics.worker_of_status(name)
    return "refused: no topic of ours" if sender is None and worker is None else "topic"


def _connack(data: bytes) -> str:
    limits_in(data)
    return "CONNACK"


def _body(data: bytes) -> str:
    """As the routes read it, strictly and leniently, for both kinds of text."""
    try:
        found = parse_object(data)
    except ApiError as error:
        return f"refused: {error.message}"
    said = []
    for read in (chat_request, completion_request):
        for lenient in (False, True):
            try:
                read(found, lenient)
                said.append("read")
            except ApiError as error:
                said.append(error.message)
    return f"{'read' if 'read' in said else 'refused'}: {said}"


def _messages() -> list[Message]:
    rng = random.Random(1)
    prompt = tuple(rng.randrange(49_152) for _ in range(60))
    return [
        Open(7, 1, _IDENTITY, prompt, (), 16, 1, (30, 216, 34)),
        Open(8, 2, _IDENTITY, (30, 216), prompt[:20], 16, 1, (), Prefix(300, _DIGEST[:16]), 4),
        Open(9, 1, _IDENTITY, (30, 216), (), 16, 1, (), deliver=86_400),
        Draft(7, 1, 2, 130, 4, 0xCAFEBABE, (198, 30, 5646, 127, 128, 16_383, 16_384), 16),
        Draft(7, 1, 9, 64, 0, 5, (198, 30, 5646, 253) * 16, 0, 8),
        Poll(7, 1, 9, 2**20, 0, 5, prompt[:18], 2**31 - 1),
        Poll(1, 1, 9, 64, -40, 5, (), 256, 1),
        Close(7, 2, 77, CloseReason.ELSEWHERE),
        Verdict(7, 1, 2, 130, (198, 30, 5646, 253), 0x12345678, Fin.NONE, 3, 61),
        Verdict(7, 1, 0, 0, (), 0x12345678, Fin.NONE, 0, 0, "w-1.a_Z", 30),
        Verdict(3, 1, 40, 12, tuple(range(MAX_VERDICT_TOKENS)), 1, Fin.EOS, 4, 61, None, 0, 5, 2),
        Verdict(7, 1, 0, 0, (), 0x12345678, Fin.NONE, 0, 0, "w-1.a_Z", 30, delivers=86_400),
        Delivery(7, 2, prompt, 0x12345678, Fin.EOS, "w-1.a_Z"),
        Error(7, 4, ErrorCode.BUSY, 1500, "w1"),
        Error(9, 1, ErrorCode.FINGERPRINT, 0, "w1", "the tokenizers differ: \u00e9" * 12),
    ]


def _long() -> list[bytes]:
    """Payloads that cost most: long opens, just what may be, and a little more; large bodies of nothing; nesting."""
    rng = random.Random(2)
    compressor = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1, write_checksum=0
        )
    )

    def opening(prompt: Sequence[int], committed: Sequence[int] = ()) -> bytes:
        whole = msgspec.structs.replace(_IDENTITY, limit=len(committed) + 100)
        return message_to_body(Open(7, 1, whole, tuple(prompt), tuple(committed), 16, 1, ()))

    def dense(size: int, top: int) -> bytes:
        """As many tokens for each byte as may be: repeated ones, and as much noise as pays for them."""

        def made(noise: int) -> tuple[bytes, bytes]:
            body = opening([top] * (size - noise) + noisy[:noise])
            return body, compressor.compress(body)

        def pays(noise: int) -> bool:
            body, frame = made(noise)
            return MAX_EXPANSION * len(frame) >= len(body)

        return flag_byte(1) + made(bisect_left(range(len(noisy)), True, key=pays))[1]

    noisy = [rng.randrange(49_152) for _ in range(CONTEXT)]
    unknown = [[5, 7, 1, 1, 1, [], {}], 2**63, "x" * 100_000, b"y" * 100_000]
    return [
        dense(_LONGEST, 100),
        dense(_LONGEST, 49_000),
        dense(MAX_PROMPT_TOKENS, 5),
        flag_byte(0) + opening(noisy[:_LONGEST]),
        flag_byte(1) + compressor.compress(opening([5], [100] * _LONGEST + noisy[:200])),
        flag_byte(0) + opening([5] * MAX_PROMPT_TOKENS),
        flag_byte(0) + b"\x99\x02" + b"\x91" * (MAX_PAYLOAD_BYTES - 10),
        flag_byte(0) + b"\x96\x04\x01\x01\x01\x00" + b"\x91" * 500 + b"\xc0",
        flag_byte(0) + msgspec.msgpack.encode([4, 1, 1, 1, 0, *unknown]),
        flag_byte(0) + msgspec.msgpack.encode([2, 7, 1, 1, 1, 1, 1, pack_tokens([1] * 200_000), 0]),
        flag_byte(1) + compressor.compress(rng.randbytes(31_000) + bytes(990_000)),
    ]


def _statuses() -> list[bytes]:
    versions = tuple(
        VersionStatus(name=f"v{n}", digest="ab" * 8, state="ready", why="no" * 50) for n in range(40)
    )
    figures = tuple(VersionFigures(name=f"v{n}", digest="cd" * 8, answers=n, tokens=2**40) for n in range(32))
    family = CatalogueStatus(family=FAMILY, state="current", epoch=1, expires=2)
    found = [
        WorkerStatus(
            state="online", epoch=1_700_000_000_123, at=1.7e9, worker="w1", version="v2", load=3, life=7
        ),
        WorkerStatus(state="gone", epoch=1, at=2.0, worker="w1"),
        WorkerStatus(state="draining", epoch=1, at=2.0, worker="w1", versions=versions),
    ]
    edges = [
        EdgeStatus(
            state="online", epoch=1, at=2.0, edge="e1", sessions=4, catalogue=family, versions=figures
        ),
        EdgeStatus(state="gone", epoch=1, at=2.0, edge="e1"),
    ]
    return [*map(_CODEC.encode_status, found), *map(_CODEC.encode_status, edges)]


def _catalogues() -> list[bytes]:
    keys = [PrivateKey.generate() for _ in range(2)]
    public = tuple(key.public for key in keys)
    versions = tuple(
        CatalogueVersion(f"v{n}", VersionState.STABLE if not n else VersionState.RETIRED, _DIGEST)
        for n in range(8)
    )
    return [
        seal(KeySet(1, FAMILY, 1, 2, public), keys),
        seal(Catalogue(1, FAMILY, 1_700_000_000, 3600, 1, "https://heads.example/", versions), keys),
    ]


def _topics() -> list[bytes]:
    names = (
        topics.open_topic("base", "edge-1"), topics.draft_topic("w1", "edge-1"), topics.worker_status_topic("w1"),
        topics.verdict_topic("edge-1"), topics.catalogue_topic(FAMILY), "f1/o/" + "x" * 64 + "/" + "y" * 64,
    )  # fmt: skip
    return [*(name.encode() for name in names), b"/" * 60_000, b"f1/w/" + b"a" * 60_000]


def _connacks() -> list[bytes]:
    return [
        bytes((0x20, 3, 0, 0, 0)),
        bytes((0x20, 13, 0, 0, 10, 0x21, 0, 9, 0x24, 1, 0x25, 0, 0x2A, 0, 0x28, 0)),
        bytes((0x20, 0xFF, 0x01, 0, 0, 0xFA, 0x01, 0x1F, 0, 247)) + b"x" * 247,
    ]


def _bodies() -> list[bytes]:
    chat = {
        "model": "base",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "h\u00e9llo"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "max_tokens": 20,
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True, "include_origin": True},
    }
    completion = {"model": "base", "prompt": "the end", "max_tokens": 5, "ignore_eos": True, "n": 1}
    long = {"prompt": "word " * 20_000, "max_tokens": 1}
    return [msgspec.json.encode(one) for one in (chat, completion, long)]
