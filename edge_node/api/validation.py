"""Reads a JSON object as one of the types of `schemas.openai`, and names the field that is to blame."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import Meta

from edge_node.api.errors import bad
from schemas.openai import NEUTRAL, WHY

S = TypeVar("S", bound=msgspec.Struct)

_SHOWN = 60
"""Characters of a wrong value that an error repeats."""


def parse_object(data: bytes) -> dict[str, Any]:
    """Read a request's body.

    Raises:
        ApiError: 400; it is no JSON object, or holds what no text can hold.
    """
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        canonical(found)  # a lone surrogate can be written as an escape, but is no character
    except RecursionError as error:
        raise bad(None, "the body is nested too deeply", code="invalid_json") from error
    except ValueError as error:  # UnicodeError and JSONDecodeError are both
        raise bad(None, f"the body is no JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise bad(None, "the body is no JSON object", code="invalid_json")
    return found


def canonical(value: Any) -> bytes:
    """The same bytes for equal JSON values, whatever the order of their fields.

    Raises:
        UnicodeEncodeError: a text in it holds what is no character.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def read(kind: type[S], found: dict[str, Any], where: str = "", *, lenient: bool = False) -> S:
    """Read an object. A field that is null counts as absent.

    Args:
        kind: a request, or an object within one.
        found: the object.
        where: put before names in errors, ``messages[3].``.
        lenient: ignore fields that are unknown or not supported.

    Raises:
        ApiError: 400, naming the field.
    """
    fields = _fields(kind)
    values: dict[str, Any] = {}
    for field in fields.values():
        value, name = found.get(field.name), f"{where}{field.name}"
        if value is not None:
            values[field.name] = _value(field.type, value, name, lenient=lenient)
        elif field.required:
            raise bad(name, f"{name} is missing")
    for field_name in found:
        if field_name not in fields and not lenient:
            name = f"{where}{field_name}"
            raise bad(name, f"{name} is not known here", code="unknown_parameter")
    return kind(**values)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _value(kind: Any, value: Any, name: str, *, lenient: bool) -> Any:
    for branch, metas in _branches(kind):
        for meta in metas:
            if meta.extra and NEUTRAL in meta.extra:
                return _neutral(meta.extra, value, name, lenient=lenient)
        origin = typing.get_origin(branch)
        if origin is typing.Literal and isinstance(value, str):
            allowed = typing.get_args(branch)
            if value not in allowed:
                raise bad(name, f"{name} is {value[:_SHOWN]!r}, not one of {', '.join(allowed)}")
        if branch is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if _is_struct(branch) and isinstance(value, dict):
            return read(branch, value, f"{name}.", lenient=lenient)
        if origin is list and isinstance(value, list) and _is_struct(item := typing.get_args(branch)[0]):
            _convert(typing.Annotated[(list[Any], *metas)] if metas else list[Any], value, name)
            return [_value(item, one, f"{name}[{at}]", lenient=lenient) for at, one in enumerate(value)]
    return _convert(kind, value, name)


def _branches(kind: Any, metas: tuple[Meta, ...] = ()) -> Iterator[tuple[Any, tuple[Meta, ...]]]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(kind)
        yield from _branches(inner, (*metas, *more))
    elif origin in {typing.Union, types.UnionType}:
        for one in typing.get_args(kind):
            yield from _branches(one, metas)
    else:
        yield kind, metas


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _neutral(extra: dict[str, Any], value: Any, name: str, *, lenient: bool) -> None:
    """Refuse a value of an unsupported field that asks for something."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not lenient and canonical(value) not in extra[NEUTRAL]:
        raise bad(name, f"{name} is not supported: {extra[WHY]}", code="unsupported_parameter")


def _convert(kind: Any, value: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        hints = [meta.description for _, metas in _branches(kind) for meta in metas if meta.description]
        raise bad(name, f"{name}: {said[:1].lower()}{said[1:]}. {' '.join(hints)}".rstrip(". ")) from error
