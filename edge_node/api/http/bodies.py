"""Requests' bodies: bounded before anything parses them, then read as one of the types of `schemas.openai`."""

from __future__ import annotations

import asyncio
import json
import types
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.responses import Response

from edge_node.api.errors import ApiError, bad, gone
from edge_node.api.settings import ApiSettings
from schemas.openai import NEUTRAL, WHY

if TYPE_CHECKING:
    from starlette.requests import Request


S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_DEEPEST = 128
"""Levels of a body."""
_AT_ONCE = 65_536
"""Bytes of a body that is worked on in the event loop; longer ones take their turns on a thread."""
_SHOWN = 60
"""Characters of a wrong value that an error repeats."""


class Bodies:
    """The bodies that are being read.

    Args:
        settings: settings of the API.

    Attributes:
        held: bytes of them that have come.
    """

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._reader = ThreadPoolExecutor(1, "bodies")
        self.held = 0

    async def work(self, size: int, function: Callable[..., T], *args: Any) -> T:
        """Do what takes as long as a body of this size."""
        if size <= _AT_ONCE:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._reader, function, *args)

    async def read(self, request: Request, *, typed: bool = True) -> bytes:
        """The body of a request that says to be JSON.

        Args:
            request: the request.
            typed: whether it must say so; where not, pages in a browser are known by their origin alone.

        Raises:
            ApiError: 415, another type; 413, too long; 408, too slow; 503, too many at a time; 499, the client went
                away.
        """
        settings = self._settings
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if typed and kind != "application/json":  # a page in a browser cannot send this type to us unasked
            raise ApiError(
                415,
                f"the body is of type {kind or 'none'}, not application/json",
                code="unsupported_media_type",
                hint="send the header Content-Type: application/json",
            )
        stated = request.headers.get("content-length", "0")
        if stated.isascii() and stated.isdigit() and int(stated) > settings.max_body:
            raise _too_long(settings.max_body)
        body = bytearray()
        try:
            async with asyncio.timeout(settings.body_timeout):
                await self._read_into(body, request)
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {settings.body_timeout:g} s", code="body_timeout"
            ) from None
        finally:
            self.held -= len(body)
        return bytes(body)

    async def _read_into(self, body: bytearray, request: Request) -> None:
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise gone()
            part, more = message.get("body", b""), message.get("more_body", False)
            body += part
            self.held += len(part)
            if len(body) > self._settings.max_body:
                raise _too_long(self._settings.max_body)
            if self.held > self._settings.max_bodies:
                raise ApiError(503, "too many long requests are being read", code="overloaded", retry_after=1)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body has more than {most} bytes", code="body_too_long")


def parse_object(data: bytes) -> dict[str, Any]:
    """Read a request's body.

    Raises:
        ApiError: 400; it is no JSON object, or holds what no text can hold.
    """
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        if data.count(b"[") + data.count(b"{") > _DEEPEST:
            _measure(body)
        canonical(body)  # a lone surrogate can be written as an escape, but is no character
    except RecursionError as error:
        message = f"the body is nested more than {_DEEPEST} levels deep"
        raise bad(None, message, code="invalid_json") from error
    except ValueError as error:  # UnicodeError and JSONDecodeError are both
        raise bad(None, f"the body is no JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(body, dict):
        raise bad(None, "the body is no JSON object", code="invalid_json")
    return body


def _measure(body: Any) -> None:
    """See that functions which walk a body may call themselves.

    Raises:
        RecursionError: it is nested too deeply.
    """
    level: list[Any] = [[body]]
    for _ in range(_DEEPEST + 1):
        within = (each.values() if isinstance(each, dict) else each for each in level)
        level = [part for parts in within for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise RecursionError


def canonical(value: Any) -> bytes:
    """The same bytes for equal JSON values, whatever the order of their fields.

    Raises:
        UnicodeEncodeError: a text in it holds what is no character.
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def json_answer(body: msgspec.Struct, status: int = 200) -> Response:
    """An answer of one object."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def read(kind: type[S], body: dict[str, Any], where: str = "", *, ignored: list[str] | None = None) -> S:
    """Read an object. A field that is null counts as absent.

    Args:
        kind: a request, or an object within one.
        body: the object.
        where: put before names in errors, ``messages[3].``.
        ignored: takes the names of fields that ask for what is unknown or not supported; without it they are refused,
            but for unknown ones of a kind that may have such.

    Raises:
        ApiError: 400, naming the field.
    """
    fields = _fields(kind)
    values: dict[str, Any] = {}
    for field in fields.values():
        value, name = body.get(field.name), f"{where}{field.name}"
        if value is not None:
            values[field.name] = _value(field.type, value, name, ignored=ignored)
        elif field.required:
            raise bad(name, f"{name} is missing")
    for field_name in body:
        if field_name not in fields:
            name = f"{where}{field_name}"
            if ignored is not None:
                ignored.append(name)
            elif kind.__struct_config__.forbid_unknown_fields:
                raise bad(name, f"{name} is not known here", code="unknown_parameter")
    return kind(**values)


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _value(kind: Any, value: Any, name: str, *, ignored: list[str] | None) -> Any:
    for branch, metas in _branches(kind):
        for meta in metas:
            if meta.extra and NEUTRAL in meta.extra:
                return _neutral(meta.extra, value, name, ignored=ignored)
        origin = typing.get_origin(branch)
        if origin is typing.Literal and isinstance(value, str):
            allowed = typing.get_args(branch)
            if value not in allowed:
                hint = " ".join(meta.description for meta in metas if meta.description)
                raise bad(name, f"{name} is {value[:_SHOWN]!r}, not one of {', '.join(allowed)}", hint=hint)
        if branch is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if _is_struct(branch) and isinstance(value, dict):
            return read(branch, value, f"{name}.", ignored=ignored)
        if origin is list and isinstance(value, list) and _is_struct(item := typing.get_args(branch)[0]):
            _convert(typing.Annotated[(list[Any], *metas)] if metas else list[Any], value, name)
            return [_value(item, each, f"{name}[{at}]", ignored=ignored) for at, each in enumerate(value)]
    return _convert(kind, value, name)


def _branches(kind: Any, metas: tuple[Meta, ...] = ()) -> Iterator[tuple[Any, tuple[Meta, ...]]]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        inner, *more = typing.get_args(kind)
        yield from _branches(inner, (*metas, *more))
    elif origin in {typing.Union, types.UnionType}:
        for branch in typing.get_args(kind):
            yield from _branches(branch, metas)
    else:
        yield kind, metas


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _neutral(extra: dict[str, Any], value: Any, name: str, *, ignored: list[str] | None) -> None:
    """Refuse a value of an unsupported field that asks for something."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if canonical(value) in extra[NEUTRAL]:
        return
    if ignored is None:
        raise bad(name, f"{name} is not supported: {extra[WHY]}", code="unsupported_parameter")
    ignored.append(name)


def _convert(kind: Any, value: Any, name: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        words = str(error)
        hints = [meta.description for _, metas in _branches(kind) for meta in metas if meta.description]
        raise bad(name, f"{name}: {words[:1].lower()}{words[1:]}. {' '.join(hints)}".rstrip(". ")) from error
