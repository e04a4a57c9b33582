"""How much an edge node takes on, and for how long it keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from flexspec_mq.settings import Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionLimits:
    """Bounds on the texts of one server. Times are seconds.

    Attributes:
        api_texts: texts that are written or read at a time.
        api_max_tokens: most tokens of a text whose request names no limit; 0 is what the context leaves.
        max_readers: readers of one text at a time, by the same idempotency key.
        link_patience: seconds that the link to the broker may be down before new texts are refused.
        keep_for: seconds that a complete text stays under its idempotency key.
        keep_texts: complete texts kept at most.
        keep_bytes: characters of them, taken together, at most.
        grace: seconds for texts to end when the server stops.
    """

    api_texts: Annotated[int, Setting(help="texts written at a time; beyond it 429", least=1)] = 64
    api_max_tokens: Annotated[
        int,
        Setting(
            help="tokens of an answer to a chat that names no limit; 0 is what the context leaves", least=0
        ),
    ] = 1024
    max_readers: int = 16
    link_patience: float = 3.0
    keep_for: float = 600.0
    keep_texts: int = 256
    keep_bytes: int = 16 * 2**20
    grace: float = 5.0
