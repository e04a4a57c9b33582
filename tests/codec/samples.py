"""Messages of the protocol, by hand and drawn to the ends of each range, and payloads that `encode` never builds."""

from typing import Any, get_args

import msgspec
import zstandard
from hypothesis import strategies as st
from msgspec import inspect

from flexspec_mq.codec.codec import flag_byte
from flexspec_mq.codec.tokens import pack_tokens
from schemas.messages import (
    MAX_TOKEN_ID,
    PENALTIES_VERSION,
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

IDENTITY = Identity(1, bytes(range(16)), Sampling(0.7, 40, 0.95, 2**64 - 1), (2, 0), False, 512)
GRAMMAR = msgspec.structs.replace(IDENTITY, grammar=bytes(range(32, 48)))
MIN_P = msgspec.structs.replace(IDENTITY, sampling=msgspec.structs.replace(IDENTITY.sampling, min_p=0.05))
PENALIZED = msgspec.structs.replace(
    IDENTITY,
    noise=PENALTIES_VERSION,
    sampling=Sampling(0.7, 40, 0.95, 3, 0.0, 1.1, -0.5, 2.0, ((7, -100.0), (49151, 2.5))),
)
PROMPT = (1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712)
SAMPLES: dict[str, Message] = {
    "open": Open(0xDEADBEEF, 1, IDENTITY, PROMPT, (), 0, 1, (30, 216, 34)),
    "open-short": Open(7, 2, IDENTITY, (1,), (2**24 - 1,), 256, 3, ()),
    "open-greedy": Open(0, 1, Identity(1, bytes(16), Sampling(), (), True, 2**20), (0,), (), 0, 0, ()),
    "open-prefix": Open(8, 1, IDENTITY, (30, 216), (), 16, 1, (), Prefix(300, bytes(range(16, 32)))),
    "open-worker-draft": Open(9, 1, IDENTITY, (30, 216), (), 16, 1, (), None, 4),
    "open-resumes": Open(9, 2, IDENTITY, (30, 216), (), 0, 7, (), resumes=300),
    "open-grammar": Open(9, 1, GRAMMAR, (30, 216), (), 0, 7, (), grammar=bytes(range(40))),
    "open-grammar-known": Open(9, 1, GRAMMAR, (30, 216), (), 0, 7, (), Prefix(300, bytes(range(16, 32)))),
    "open-min-p": Open(9, 1, MIN_P, (30, 216), (), 16, 1, ()),
    "open-penalized": Open(9, 1, PENALIZED, (30, 216), (), 16, 1, ()),
    "open-deliver": Open(9, 1, IDENTITY, (30, 216), (), 16, 1, (), deliver=604_800),
    "draft": Draft(0xDEADBEEF, 1, 2, 130, 4, 0xCAFEBABE, (198, 30, 5646, 127, 128, 16383, 16384), 16),
    "draft-empty": Draft(1, 1, 1, 0, 0, 0, (), 0),
    "draft-behind": Draft(1, 3, 200, 300, -40, 2**32 - 1, (49151,), 0),
    "draft-worker-draft": Draft(1, 1, 2, 130, 4, 0xCAFEBABE, (198, 30), 16, 64),
    "poll": Poll(0xDEADBEEF, 1, 9, 2**20, 0, 5, PROMPT, 2**31 - 1),
    "poll-long": Poll(0xDEADBEEF, 1, 9, 64, 0, 5, (198, 30, 5646, 253) * 16, 0),
    "poll-worker-draft": Poll(1, 1, 9, 64, 0, 5, (), 256, 1),
    "close": Close(0xDEADBEEF, 2, 77, CloseReason.ELSEWHERE),
    "verdict": Verdict(0xDEADBEEF, 1, 2, 130, (198, 30, 5646, 253), 0x12345678, Fin.NONE, 3, 61),
    "verdict-accept": Verdict(0xDEADBEEF, 1, 0, 0, (), 0x12345678, Fin.NONE, 0, 0, "w-1.a_Z", 30),
    "verdict-finish": Verdict(3, 1, 40, 511, (2,), 1, Fin.EOS, 10_000_000, 300, None, 1),
    "verdict-drafted": Verdict(3, 1, 40, 12, (7, 8), 1, Fin.NONE, 4, 61, drafted=5),
    "verdict-granted": Verdict(3, 1, 40, 12, (7, 8), 1, Fin.NONE, 4, 61, drafted=0, granted=2),
    "verdict-forced": Verdict(3, 1, 40, 12, (7, 8, 9), 1, Fin.NONE, 4, 61, drafted=0, forced=2),
    "verdict-recommended": Verdict(
        3, 1, 0, 0, (), 1, Fin.NONE, 0, 0, "w1", 30, recommended=Sampling(0.2, 0, 0.9)
    ),
    "verdict-delivers": Verdict(3, 1, 0, 0, (), 1, Fin.NONE, 0, 0, "w1", 30, delivers=86_400),
    "delivery": Delivery(0xDEADBEEF, 2, PROMPT, 0x12345678, Fin.EOS, "w-1.a_Z"),
    "delivery-unfinished": Delivery(7, 1, (), 2**32 - 1, Fin.NONE, "w1"),
    "verdict-gap": Verdict(3, 1, 40, 12, (), 1, Fin.GAP, 0, 0),
    "error": Error(0xDEADBEEF, 4, ErrorCode.BUSY, 1500, "w1"),
    "error-prefix": Error(0xDEADBEEF, 1, ErrorCode.NEED_PREFIX, 0, "w1"),
    "error-grammar": Error(9, 1, ErrorCode.GRAMMAR, 0, "w1", "Unknown format: zzz"),
    "error-detail": Error(9, 1, ErrorCode.FINGERPRINT, 0, "w1", "the tokenizers differ: é"),
}


def pack(*values: Any) -> bytes:
    """An uncompressed payload of any array; tuples are tokens."""
    fields = [pack_tokens(value) if isinstance(value, tuple) else value for value in values]
    return flag_byte(0) + msgspec.msgpack.encode(fields)


def zstd(body: bytes, *, declare_size: bool = True) -> bytes:
    """A payload of a zstd frame without a dictionary."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=int(declare_size), write_checksum=0
    )
    return flag_byte(1) + zstandard.ZstdCompressor(compression_params=parameters).compress(body)


_MOST = 300
"""Items of a tuple, which may have many more."""


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that messages have."""
    return _of(inspect.type_info(kind))


def tokens(at_least: int, at_most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Tuples of token ids."""
    ids = st.integers(0, MAX_TOKEN_ID) | st.integers(0, 49_151)
    return st.lists(ids, min_size=at_least, max_size=min(at_most, _MOST)).map(tuple)


def logit_biases() -> st.SearchStrategy[tuple[tuple[int, float], ...]]:
    """Ascending token ids, each with a bias of its logit."""
    biases = st.dictionaries(st.integers(0, MAX_TOKEN_ID), st.floats(-100.0, 100.0), max_size=_MOST)
    return biases.map(lambda some: tuple(sorted(some.items())))


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911, PLR0912  a row for each type
    match info:
        case inspect.Metadata(type=inner):
            return _of(inner)
        case inspect.UnionType(types=types):
            return st.one_of(*map(_of, types))
        case inspect.StructType(cls=kind, fields=fields):
            return _structs(kind, {field.name: _of(field.type) for field in fields})
        case inspect.VarTupleType(item_type=inspect.TupleType()):
            return logit_biases()
        case inspect.VarTupleType(min_length=least, max_length=most):
            return tokens(least or 0, most or _MOST)
        case inspect.EnumType(cls=kind):
            return st.sampled_from(list(kind))
        case inspect.IntType(ge=least, le=most):
            return st.integers(least, 2**64 - 1 if most is None else most)
        case inspect.FloatType(ge=least, gt=above, le=most):
            return st.floats(above if least is None else least, most, exclude_min=above is not None)
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=most)
        case inspect.StrType(pattern=None, max_length=most):
            return st.text(st.characters(codec="utf-8"), max_size=most)
        case inspect.StrType():
            return st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
    raise TypeError(info)


def _structs(kind: type[msgspec.Struct], fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    if not issubclass(kind, Draft | Poll):
        return st.builds(kind, **fields)
    # No batch starts before the first generated token.
    have = fields.pop("have")
    del fields["offset"]
    return have.flatmap(
        lambda have: st.builds(kind, **fields, have=st.just(have), offset=st.integers(-have, 2**20))
    )


BY_TYPE: dict[type[Message], st.SearchStrategy[Message]] = {kind: of_type(kind) for kind in get_args(Message)}
messages: st.SearchStrategy[Message] = st.one_of(*BY_TYPE.values())
