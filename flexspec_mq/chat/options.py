"""How answers are to be written, as flags and commands say it; the bounds are those of the API."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flexspec_mq.errors import UsageError

NONE = "none"
"""The word that unsets an option."""


@dataclass(slots=True, kw_only=True)
class GenerationOptions:
    """What a user asked for; None leaves it to the API.

    Attributes:
        model: target version.
        system: what the conversation begins with.
        max_tokens: of one answer.
        seed: of each answer.
    """

    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def fields(self) -> dict[str, Any]:
        """As the API's request has them; the system's text is a message and not among them."""
        named = {name: getattr(self, name) for name in ("model", *NUMBERS)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Number:
    """An option that is a number.

    Attributes:
        kind: of number.
        allowed: in words.
        fits: whether a number is allowed.
        unset: what holds without the option, in words.
        help: what it is.
    """

    kind: type[int | float]
    allowed: str
    fits: Callable[[float], bool]
    unset: str
    help: str

    def read(self, name: str, text: str) -> int | float:
        """The number that a text says.

        Raises:
            UsageError: it says none, or one that the API would refuse.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not self.fits(value):
            raise UsageError(f"{name.replace('_', '-')} {text!r} is not {self.allowed}")
        return value


NUMBERS = {
    "temperature": Number(
        float,
        "a number from 0 to 2",
        lambda x: 0 <= x <= 2,
        "as the target's makers recommend",
        "0 is greedy, 1 as the target",
    ),
    "top_p": Number(
        float,
        "a number above 0, at most 1",
        lambda x: 0 < x <= 1,
        "as the target's makers recommend",
        "keep this mass of tokens",
    ),
    "max_tokens": Number(
        int,
        "a whole number from 1 to 2147483647",
        lambda x: 1 <= x < 2**31,
        "the node's limit",
        "tokens of an answer",
    ),
    "seed": Number(
        int,
        "a whole number of 64 bits",
        lambda x: -(2**63) <= x < 2**64,
        "drawn for each answer",
        "same seed, same answer",
    ),
}
