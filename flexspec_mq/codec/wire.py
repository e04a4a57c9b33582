"""Messages to msgpack arrays and back.

The types in `schemas.messages` are the only description of a message. From each, this module derives the
shape that travels: the same fields, with every tuple of token ids as a ``bin``. msgspec then checks types and
bounds while it reads, builds no value that the shape does not name, and skips what a newer peer appends.
"""

import re
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, get_args

import msgspec

from flexspec_mq.codec.tokens import count_tokens, pack_tokens, unpack_tokens
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError, UsageError
from schemas.messages import MAX_PROMPT_TOKENS, MAX_TOKEN_ID, Message


class TooManyTokens(RemoteProtocolError):
    """A message has more tokens than its receiver can use. They were counted, not read.

    Attributes:
        session: number of the message's session.
        attempt: the same.
    """

    def __init__(self, message: str, *, session: int, attempt: int) -> None:
        super().__init__(message)
        self.session = session
        self.attempt = attempt


@dataclass(frozen=True, slots=True)
class _TokenField:
    index: int
    name: str
    at_least: int
    at_most: int


@dataclass(frozen=True, slots=True)
class _Shape:
    """How one message type travels.

    Attributes:
        message: the type.
        wire: the same fields, with tokens as bytes.
        tag: the number that stands for the type.
        names: fields by name, in order.
        tokens: the fields that hold token ids.
    """

    message: type[Message]
    wire: type[msgspec.Struct]
    tag: int
    names: tuple[str, ...]
    tokens: tuple[_TokenField, ...]


def _token_field(index: int, name: str, annotation: Any) -> _TokenField | None:
    """Describe a field that holds token ids; None for any other."""
    kind = msgspec.inspect.type_info(annotation)
    if not isinstance(kind, msgspec.inspect.VarTupleType):
        return None
    if not isinstance(kind.item_type, msgspec.inspect.IntType) or kind.item_type.le != MAX_TOKEN_ID:
        return None
    if kind.max_length is None:
        raise TypeError(f"the tokens of {name!r} have no bound")
    return _TokenField(index, name, kind.min_length or 0, kind.max_length)


def _shape(message: type[Message]) -> _Shape:
    """Derive the travelling shape of a message type."""
    tag = message.__struct_config__.tag
    if not isinstance(tag, int):
        raise TypeError(f"{message.__name__} has no number")
    fields = msgspec.structs.fields(message)
    tokens = {}
    wire_fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for index, field in enumerate(fields):
        kind = field.type
        if token_field := _token_field(index, field.name, kind):
            tokens[index] = token_field
            kind = bytes
        wire_fields.append((field.name, kind) if field.required else (field.name, kind, field.default))
    wire = msgspec.defstruct(
        f"{message.__name__}OnTheWire", wire_fields, tag=tag, array_like=True, frozen=True
    )
    return _Shape(message, wire, tag, tuple(f.name for f in fields), tuple(tokens.values()))


_SHAPES = tuple(_shape(message) for message in get_args(Message))
_BY_MESSAGE = {shape.message: shape for shape in _SHAPES}
_BY_WIRE = {shape.wire: shape for shape in _SHAPES}
_BY_TAG = {shape.tag: shape for shape in _SHAPES}
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[msgspec.Struct] = msgspec.msgpack.Decoder(
    reduce(or_, (shape.wire for shape in _SHAPES))
)
_PLACE = re.compile(r"`\$\[(\d+)\]")


def message_to_body(message: Message) -> bytes:
    """Write ``[type, field, …]``, without the last fields that hold their defaults.

    Raises:
        UsageError: more than `MAX_PROMPT_TOKENS` in all its fields together.
        LocalProtocolError: a value breaks the bounds of its type, so that no peer would accept it.
    """
    shape = _BY_MESSAGE[type(message)]
    values = _short(message)
    total = sum(len(values[field.index]) for field in shape.tokens)
    if total > MAX_PROMPT_TOKENS:
        raise UsageError(
            f"{_name(shape)} has {total} tokens, more than {MAX_PROMPT_TOKENS}", hint="shorten the prompt"
        )
    try:
        for field in shape.tokens:
            tokens = values[field.index]
            if not field.at_least <= len(tokens) <= field.at_most:
                raise LocalProtocolError(
                    f"{_name(shape)}.{field.name} has {len(tokens)} tokens,"
                    f" not between {field.at_least} and {field.at_most}"
                )
            values[field.index] = pack_tokens(tokens)
        body = _ENCODER.encode([shape.tag, *values])
        _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
        raise LocalProtocolError(f"{_name(shape)} cannot be encoded: {error}") from error
    return body


def _short(value: Any) -> Any:
    """A value; of an object its fields, without the last ones that hold their defaults."""
    if not isinstance(value, msgspec.Struct):
        return value
    fields = [_short(field) for field in msgspec.structs.astuple(value)]
    for default in reversed(value.__struct_defaults__):
        if fields[-1] != default:
            break
        fields.pop()
    return fields


def body_to_message(body: bytes | memoryview, most_tokens: int) -> Message:
    """Read what `message_to_body` wrote, or what a newer version of it writes.

    Args:
        body: as it was sent, decompressed.
        most_tokens: bound over all its fields together.

    Raises:
        RemoteProtocolError: truncated or malformed, an unknown type, a value out of bounds.
        TooManyTokens: more than `most_tokens`.
    """
    try:
        wire = _DECODER.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(_explain(body, error)) from error
    shape = _BY_WIRE[type(wire)]
    values = list(msgspec.structs.astuple(wire))
    total = 0
    for field in shape.tokens:
        count = count_tokens(values[field.index])
        if not field.at_least <= count <= field.at_most:
            raise RemoteProtocolError(
                f"{_name(shape)}.{field.name}: {count} tokens, not between {field.at_least} and {field.at_most}"
            )
        total += count
    if total > most_tokens:
        raise TooManyTokens(
            f"{_name(shape)} has {total} tokens, more than {most_tokens}",
            session=values[0],
            attempt=values[1],
        )
    try:
        for field in shape.tokens:
            values[field.index] = unpack_tokens(values[field.index])
    except ValueError as error:
        raise RemoteProtocolError(f"{_name(shape)}.{field.name}: {error}") from error
    try:
        return shape.message(*values)
    except ValueError as error:
        raise RemoteProtocolError(f"{_name(shape)}: {error}") from error


def _name(shape: _Shape) -> str:
    return shape.message.__name__


def _explain(body: bytes | memoryview, error: Exception) -> str:
    """Say in the words of `schemas.messages` what msgspec says in indices."""
    tag = _tag(body)
    if tag is None:
        return f"not a message: {error}"
    if tag not in _BY_TAG:
        return f"message type {tag} is unknown"
    shape = _BY_TAG[tag]

    def named(place: re.Match[str]) -> str:
        index = int(place[1]) - 1
        return f"`{shape.names[index]}" if 0 <= index < len(shape.names) else place[0]

    return f"{_name(shape)}: {_PLACE.sub(named, str(error))}"


def _tag(body: bytes | memoryview) -> int | None:
    """The message type, if the body starts like ``[type, …]`` with a one-byte head and type."""
    is_short_array = len(body) >= 2 and body[0] & 0xF0 == 0x90
    return body[1] if is_short_array and body[1] < 0x80 else None
