"""Texts that a target wrote, and what a draft proposes at each position of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from flexspec_mq.protocol.edge.types import DraftToken, EdgeCounters
from schemas.messages import NOISE_VERSION, Identity, Sampling


class RecordedText(msgspec.Struct, frozen=True):
    """A text.

    Attributes:
        prompt: token ids.
        temperature: at which it was written.
        seed: seed of the text; no two texts of a recording share it and the temperature.
        tokens: tokens that the target wrote.
        proposals: token id and confidence that the draft proposes for each of these where all before it is known.
    """

    prompt: tuple[int, ...]
    temperature: float
    seed: int
    tokens: tuple[int, ...]
    proposals: tuple[tuple[int, float], ...]

    def proposal(self, place: int) -> DraftToken:
        """Proposal of the draft for a position of the text.

        A draft that has left the text may propose anything, as the target takes nothing that comes after a wrong
        token: it proposes the same.

        Args:
            place: position in generated tokens; behind the text's end its last position counts.
        """
        token, confidence = self.proposals[min(place, len(self.proposals) - 1)]
        return DraftToken(token, confidence)

    def decide(self, start: int, draft: Sequence[int]) -> tuple[int, ...]:
        """Decision of the target from a position on, given a draft: tokens up to the first that differs.

        Args:
            start: position in generated tokens, before the text's end.
            draft: drafted tokens for `start` on.
        """
        right = 0
        rest = self.tokens[start : start + len(draft) + 1]
        while right < len(draft) and right < len(rest) and rest[right] == draft[right]:
            right += 1
        return rest[: right + 1]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Texts of one target and one draft.

    Attributes:
        limit: tokens that each text is asked for.
        fingerprint: hexadecimal digest of the tokenizer.
        eos: token ids that end a text.
        vocab_size, max_context: sizes of the target.
        texts: texts in any order; no two share seed and temperature.
    """

    limit: int
    fingerprint: str
    eos: tuple[int, ...]
    vocab_size: int
    max_context: int
    texts: tuple[RecordedText, ...]

    def identity(self, text: RecordedText) -> Identity:
        """Identity of a text for the protocol, besides its prompt."""
        return Identity(
            NOISE_VERSION,
            bytes.fromhex(self.fingerprint),
            Sampling(text.temperature, 0, 1.0, text.seed),
            self.eos,
            False,
            self.limit,
        )


@dataclass(slots=True)
class SimulatedText:
    """A text that is being written, or is over.

    Attributes:
        text: text that was asked for.
        began: when, in seconds of the simulation.
        pieces: when tokens came, and how many.
        ended: when it was over.
        problem: why it is not what the target alone writes; empty if it is.
        counters: counters of the protocol.
    """

    text: RecordedText
    began: float
    pieces: list[tuple[float, int]] = field(default_factory=list)
    ended: float = 0.0
    problem: str = ""
    counters: EdgeCounters = field(default_factory=EdgeCounters)

    @property
    def seconds(self) -> float:
        """Seconds from the asking to the last piece."""
        return self.pieces[-1][0] - self.began if self.pieces else 0.0

    @property
    def first(self) -> float:
        """Seconds to the first piece."""
        return self.pieces[0][0] - self.began if self.pieces else 0.0

    @property
    def tokens(self) -> int:
        """Tokens received."""
        return sum(count for _, count in self.pieces)
