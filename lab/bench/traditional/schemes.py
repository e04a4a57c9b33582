"""The ways to speculate that are compared, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GUESSES = 5
"""Tokens drafted a round, as FlexSpec (arXiv 2601.00644) has its fixed draft do."""
TOP = 64
"""Probabilities of a guess that are sent where not all are, as NetSpec does."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way.

    Attributes:
        transport: of the messages; "none" writes with the draft alone.
        kept: probabilities that are sent with a guess: None is the whole vocabulary, 0 is none.
        compressed: by zstd.
    """

    transport: Literal["mqtt", "tcp", "none"] = "mqtt"
    kept: int | None = 0
    compressed: bool = False

    def says_the_targets_text(self, temperature: float) -> bool:
        """Whether its text is, token for token, the one that the target alone writes with the same seed.

        Rejection sampling draws from the target's distribution with other dice, so it writes another text.
        """
        return self.transport != "none" and (temperature == 0.0 or self.kept == 0)


TRADITIONAL, IDS, ON_DEVICE = "traditional", "traditional-ids", "on-device"
SCHEMES = {
    TRADITIONAL: Scheme(kept=None),
    "traditional-zstd": Scheme(kept=None, compressed=True),
    "traditional-top64": Scheme(kept=TOP),
    IDS: Scheme(),
    "tcp-ids": Scheme("tcp"),
    ON_DEVICE: Scheme("none"),
}
