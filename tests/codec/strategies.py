"""Hypothesis strategies for every message of the wire protocol, out to the ends of every range."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from schemas.messages import MAX_TOKEN_ID, Draft, Message, Poll

_MOST = 300
"""Items of a tuple, which may have many more."""


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type that messages have."""
    return _of(inspect.type_info(kind))


def tokens(at_least: int, at_most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Tuples of token ids."""
    ids = st.integers(0, MAX_TOKEN_ID) | st.integers(0, 49_151)
    return st.lists(ids, min_size=at_least, max_size=min(at_most, _MOST)).map(tuple)


def _of(info: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911  a row for each type
    match info:
        case inspect.Metadata(type=inner):
            return _of(inner)
        case inspect.UnionType(types=types):
            return st.one_of(*map(_of, types))
        case inspect.StructType(cls=kind, fields=fields):
            return _structs(kind, {field.name: _of(field.type) for field in fields})
        case inspect.VarTupleType(min_length=least, max_length=most):
            return tokens(least or 0, most or _MOST)  # no message has any other
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
