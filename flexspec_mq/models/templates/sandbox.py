"""Jinja's sandbox with all that transformers gives a chat template, and a bound on each operation.

A single operation of Python's may take gigabytes or hours, and no timeout ends it, as it holds the interpreter's lock.
So the size of each result is bounded before it is made, a rendering has a budget of values and of processor time, and
filters and methods that are not listed here are not there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from math import inf
from sys import getsizeof
from typing import Any, Final

from jinja2 import TemplateError, TemplateRuntimeError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace

VALUES: Final = 2**26
"""Bytes of all values that a rendering makes, each time that it makes one."""
VALUE: Final = 2**24
"""Bytes of a text or of a list with all within it, at most."""
SECONDS: Final = 2.0
"""Processor time of a rendering, at most."""
_OPERATION: Final = 128
"""Bytes for which an operation counts beside those of its result."""
_BITS: Final = 4096
"""Size of an integer, at most."""
_ENTRY: Final = 16
"""Characters for which an entry of a list counts."""
_SMALL: Final = (str, bool, type(None), range)
"""Types whose values have the size that Python says."""
_BREAKS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_Growth = Callable[..., float]
"""Characters of an operation's result at most, by its operands."""


def too_much(most: str) -> TemplateError:
    """The error of a template that takes too much."""
    return TemplateRuntimeError(f"it takes more than {most}")


def _weight(value: object, most: int) -> int:
    """Bytes of a value and of all within it, as often as it stands there; the count ends above `most`."""
    size, within = 0, [value]
    while within and size <= most:
        each = within.pop()
        size += getsizeof(each)
        if isinstance(each, Mapping):
            within += [*each.keys(), *each.values()]
        elif isinstance(each, Collection) and not isinstance(each, _SMALL):
            within += each
    return size


def _length(value: object) -> int:
    """Characters of a value's text, at most."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Collection) and not isinstance(value, _SMALL):
        return 6 * _weight(value, VALUE)
    return _ENTRY + (value.bit_length() // 3 if isinstance(value, int) else _ENTRY)


def _wide(text: str, width: int = 80, *_: Any, **__: Any) -> float:
    return len(text) + width


def _searched(text: str, part: str | None = None, *_: Any, **__: Any) -> float:
    """Size of a result that takes as long: these compare each character of a text with each of another one."""
    return len(text) + len(text) * len(part or "") / 32


def _split(text: str, sep: str | None = None, maxsplit: int = -1, **_: Any) -> float:
    pieces = text.count(sep) if sep else len(text) // 2
    return _searched(text, sep) + _ENTRY * (pieces if maxsplit < 0 else min(pieces, maxsplit))


def _lines(text: str, width: int | str = 0, *_: Any, **__: Any) -> float:
    indented = len(width) if isinstance(width, str) else width
    return len(text) + (1 + sum(map(text.count, _BREAKS))) * (_ENTRY + indented)


def _replaced(text: str, old: str, new: str, *_: Any, **__: Any) -> float:
    return len(text) + text.count(old) * _length(new)


def _joined(items: Any, d: str = "", *_: Any, **__: Any) -> float:
    return sum(map(_length, items)) + len(items) * _length(d)


def _formatted(text: str, *args: Any, **named: Any) -> float:
    """Size of what ``%`` gives; infinite with names, or with widths that are long or come from elsewhere."""
    size = len(text) + _ENTRY * text.count("%")
    if size < VALUE:
        specifiers = re.findall(r"%[^a-zA-Z%]*", text.replace("%%", ""))
        if any(re.search(r"[(*]|\d{4}", each) for each in specifiers):
            return inf
        size += len(specifiers) * (1000 + max(map(_length, (*args, *named.values())), default=0))
    return size


def _binary(operator: str, left: Any, right: Any) -> float:
    """Size of an operator's result."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return inf if left.bit_length() * right > _BITS else 0
    if operator == "%" and isinstance(left, str):
        return _formatted(left, *(right if isinstance(right, tuple) else (right,)))
    sizes = [
        len(each) * (1 if isinstance(each, str) else 2) for each in (left, right) if hasattr(each, "__len__")
    ]
    if operator == "*":
        return sum(sizes) * next((each for each in (left, right) if isinstance(each, int)), 0)
    return sum(sizes) if operator == "+" else 0


_METHODS: Final[dict[str, _Growth | None]] = {
    **dict.fromkeys((
        "capitalize", "casefold", "copy", "count", "endswith", "find", "format", "get", "index", "isalnum", "isalpha",
        "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "items", "keys",
        "lower", "partition", "removeprefix", "removesuffix", "startswith", "swapcase", "title", "upper", "values",
    )),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _wide),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rpartition"), _searched),
    **dict.fromkeys(("split", "rsplit"), _split),
    "splitlines": lambda text, *_, **__: _lines(text),
    "replace": _replaced,
    "join": lambda text, items, **_: _joined(items, text),
}  # fmt: skip
"""Methods of texts, lists and mappings, and how their results grow; None is not much beyond the text itself."""
_TEXTS: Final[dict[str, _Growth | None]] = {
    **dict.fromkeys(("capitalize", "e", "escape", "lower", "safe", "string", "truncate", "upper")),
    "center": _wide,
    "format": _formatted,
    "indent": lambda text, width=4, *_, **__: _lines(text, width),
    "replace": _replaced,
    "title": lambda text: _ENTRY * len(text),
    "trim": lambda text, chars=None: _searched(text, chars),
}
_FILTERS: Final[dict[str, _Growth | None]] = _TEXTS | {
    **dict.fromkeys((
        "abs", "attr", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length", "map",
        "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "tojson", "unique",
    )),
    "join": _joined,
    "list": lambda value: (_ENTRY if isinstance(value, str) else 2) * len(value),
    "round": lambda _, precision=0, *__, **___: inf if abs(precision) > _ENTRY else 0,
}  # fmt: skip
"""Filters, those of texts first, likewise."""


class _Generation(Extension):
    """Tag around what the model writes: a mark for training, which changes no text."""

    tags = {"generation"}  # noqa: RUF012  jinja reads it from the class

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _SafeNamespace(Namespace):
    """A namespace without Python's own attributes, whose text does not show what is in it."""

    __repr__ = object.__repr__

    def __init__(self, /, *values: Any, **named: Any) -> None:
        super().__init__()
        for name, value in dict(*values, **named).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a chat template may not set {name!r}")
        super().__setitem__(name, value)


class _Formatter(SandboxedFormatter):
    """``str.format`` with bounds."""

    _env: Sandbox

    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{4}", format_spec):
            raise too_much("999 characters for a field")
        if not format_spec:
            return self._env.shown(value)
        return self._env.counted(super().format_field(value, format_spec))

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if conversion:
            self._env.room(10 * _length(value))
        return super().convert_field(value, conversion)


class Sandbox(ImmutableSandboxedEnvironment):
    """Environment of one template; `begin` comes before each rendering."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        self.begin()
        self.finalize = self.shown
        self.filters["tojson"] = self._to_json
        filters: dict[str, Any] = self.filters
        tests: dict[str, Any] = self.tests
        self.filters = {name: self._bounded(name, filters[name]) for name in _FILTERS}
        self.filters["counted"] = pass_context(lambda _, value: self.counted(value))
        self.tests = {name: self._bounded("", test) for name, test in tests.items()}
        del self.globals["lipsum"]
        self.globals |= {
            "raise_exception": self._refuse,
            "strftime_now": _now,
            "dict": _dict,
            "namespace": _SafeNamespace,
            "range": _range,
        }

    def begin(self) -> None:
        """Begin a rendering on this thread."""
        self._left, self._until = VALUES, time.thread_time() + SECONDS

    def room(self, characters: float, *operands: object) -> None:
        """See that there is room for a text that operands give.

        Raises:
            TemplateError: there is none.
        """
        ascii_only = all(
            each.isascii() if isinstance(each, str) else not hasattr(each, "__len__") for each in operands
        )
        if characters * (1 if operands and ascii_only else 4) > min(VALUE, self._left):
            raise too_much(f"{VALUE >> 20} MB for a text, or {VALUES >> 20} MB in all")

    def counted(self, value: Any) -> Any:
        """A result, once it is counted; a list in place of an iterator.

        Raises:
            TemplateError: it is too large, or the rendering takes too much in all.
        """
        if not isinstance(value, _SMALL):
            if isinstance(value, Iterator):
                value = list(value)
            if isinstance(value, int) and value.bit_length() > _BITS:
                raise too_much(f"{_BITS} bits for a number")
            if isinstance(value, Collection) and _weight(value, VALUE) > VALUE:
                raise too_much(f"{VALUE >> 20} MB for a list")
        self._left -= _OPERATION + getsizeof(value)
        if self._left < 0:
            raise too_much(f"{VALUES >> 20} MB")
        if time.thread_time() > self._until:
            raise too_much(f"{SECONDS:g} s")
        return value

    def shown(self, value: Any) -> str:
        """The text of a value."""
        if not isinstance(value, str):
            self.room(_length(value), value)
            value = str(value)
        return str(self.counted(value))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The result of an operator."""
        self.room(_binary(operator, left, right), left, right)
        return self.counted(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **named: Any) -> Any:
        """The result of a function, macro or method."""
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            args = tuple(list(each) if isinstance(each, Iterator) else each for each in args)
            if growth := _METHODS[obj.__name__]:
                self.room(growth(text, *args, **named), text, *args)
        return self.counted(super().call(context, obj, *args, **named))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether it is a listed method, or of a type of Jinja's."""
        listed = attr in _METHODS or type(obj).__module__ not in {"builtins", "markupsafe"}
        return listed and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` of a text, in a bounded way."""
        if super().wrap_str_format(value) is None:
            return None
        text = value.__self__

        def formatted(*args: Any, **named: Any) -> str:
            if value.__name__ != "format" or type(text) is not str:
                raise SecurityError(f"a chat template may not use {value.__name__} here")
            self.room(len(text) + _ENTRY * (text.count("{") + text.count("}")), text)
            return _Formatter(self).vformat(text, args, named)

        return formatted

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter, or a test without name."""
        growth = _FILTERS.get(name)

        @pass_context
        def call(context: Context, value: Any, /, *args: Any, **named: Any) -> Any:
            if isinstance(value, Iterator):
                value = list(value)
            if name in _TEXTS and not isinstance(value, str):
                value = self.shown(value)
            if growth is not None:
                self.room(growth(value, *args, **named), value, *args, *named.values())
            return self.counted(context.call(function, value, *args, **named))

        return call

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        if isinstance(indent, int):
            self.room(_ENTRY * _ENTRY * abs(indent))
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )
        return "".join(map(self.counted, encoder.iterencode(value)))

    def _refuse(self, message: Any) -> None:
        raise TemplateError(self.shown(message))


def _now(form: str) -> str:
    if len(form) > VALUE >> 14:
        raise too_much(f"{VALUE >> 14} characters for a date")
    return datetime.now().strftime(form)  # noqa: DTZ005  local


def _dict(*values: Any, **named: Any) -> dict[Any, Any]:
    """A mapping; the class itself would show its methods."""
    return dict(*values, **named)


def _range(*bounds: int) -> range:
    """A range whose numbers have hashes of their own."""
    if any(abs(each) > 2**31 for each in bounds):
        raise too_much("31 bits for a bound of a range")
    return safe_range(*bounds)
