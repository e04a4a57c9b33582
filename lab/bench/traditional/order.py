"""What the device's side is told to write."""

from __future__ import annotations

import msgspec


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A text that is wanted: JSON.

    Attributes:
        scheme: name of one of `SCHEMES`.
        prompt: what the user says.
        tokens: new ones at most.
        guesses: drafted a round at most.
        temperature, top_k, top_p, seed: as in `SamplingParams`.
    """

    scheme: str
    prompt: str
    tokens: int
    guesses: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
