"""Typed reading of a JSON object: every field is taken exactly once, and what is left over is unknown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from edge_node.api.errors import bad

Neutral = Callable[[Any], bool]


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


def is_neutral(value: Any) -> bool:
    """Whether a value asks for nothing: null, false, 0, or empty."""
    return not value


def one_of(*values: object) -> Neutral:
    """A test for one of some values, beside null."""
    return lambda value: value is None or any(value == one and type(value) is type(one) for one in values)


class Fields:
    """The fields of one object. All takers give None for a field that is absent or null.

    Args:
        found: the object.
        where: put before names in errors.
    """

    def __init__(self, found: dict[str, Any], where: str = "") -> None:
        self._left = dict(found)
        self._where = where

    def name(self, field: str) -> str:
        """How a field is called in an error."""
        return f"{self._where}{field}"

    def take(self, field: str) -> Any:
        """Any value."""
        return self._left.pop(field, None)

    def text(self, field: str) -> str | None:
        """A string."""
        value = self.take(field)
        if value is not None and not isinstance(value, str):
            raise bad(self.name(field), f"{self.name(field)} is no string")
        return value

    def flag(self, field: str) -> bool:
        """A boolean; False when absent."""
        value = self.take(field)
        if value is not None and not isinstance(value, bool):
            raise bad(self.name(field), f"{self.name(field)} is neither true nor false")
        return bool(value)

    def integer(self, field: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        value = self.take(field)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise bad(self.name(field), f"{self.name(field)} is no whole number from {low} to {high}")
        return value

    def number(self, field: str, low: float, high: float) -> float | None:
        """A number within bounds."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise bad(self.name(field), f"{self.name(field)} is no number from {low:g} to {high:g}")
        return float(value)

    def inner(self, field: str) -> Fields | None:
        """An object within the object."""
        value = self.take(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise bad(self.name(field), f"{self.name(field)} is no object")
        return Fields(value, f"{self.name(field)}.")

    def ignore(self, *fields: str) -> None:
        """Take fields that do not change the text."""
        for field in fields:
            self._left.pop(field, None)

    def refuse_others(self, unsupported: dict[str, Neutral]) -> None:
        """Refuse what is left, except for unsupported fields with a value that asks for nothing.

        Raises:
            ApiError: 400, naming the field.
        """
        for field, value in self._left.items():
            name = self.name(field)
            neutral = unsupported.get(field)
            if neutral is None:
                raise bad(name, f"{name} is not known here", code="unknown_parameter")
            if not neutral(value):
                raise bad(
                    name,
                    f"{name} is not supported, and would change the answer",
                    code="unsupported_parameter",
                )
