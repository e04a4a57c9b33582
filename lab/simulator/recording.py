"""Texts that a target wrote, and what a draft proposes at each position of them; kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from flexspec_mq.errors import UsageError
from flexspec_mq.protocol.edge.types import DraftToken
from schemas.messages import PROTOCOL_VERSION, Identity


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the texts and the drafts.

    Attributes:
        target, draft: folders or names of models.
        questions: names of what was asked.
        temperatures: each question is answered once at each.
        tokens: of an answer at most.
        seed: that the texts' own come from.
    """

    target: str
    draft: str
    questions: tuple[str, ...]
    temperatures: tuple[float, ...]
    tokens: int
    seed: int


class RecordedText(msgspec.Struct, frozen=True):
    """One text.

    Attributes:
        prompt: token ids.
        temperature: at which it was written.
        seed: its own; no two texts of a recording share it and the temperature.
        tokens: what the target wrote.
        proposals: for each of these, what the draft proposes where all before it is known: token id and confidence.
    """

    prompt: tuple[int, ...]
    temperature: float
    seed: int
    tokens: tuple[int, ...]
    proposals: tuple[tuple[int, float], ...]

    def proposal(self, place: int) -> DraftToken:
        """What the draft proposes for a position of the text.

        A draft that has left the text may propose anything, as the target takes nothing that comes after a wrong
        token: it proposes the same.

        Args:
            place: in generated tokens; behind the text's end its last position counts.
        """
        token, confidence = self.proposals[min(place, len(self.proposals) - 1)]
        return DraftToken(token, confidence)

    def decide(self, start: int, draft: Sequence[int]) -> tuple[int, ...]:
        """What the target decides from a position on, given a draft: tokens up to the first that differs.

        Args:
            start: in generated tokens, before the text's end.
            draft: drafted tokens for `start` on.
        """
        right = 0
        rest = self.tokens[start : start + len(draft) + 1]
        while right < len(draft) and right < len(rest) and rest[right] == draft[right]:
            right += 1
        return rest[: right + 1]


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Made by `lab.recording`.

    Attributes:
        fingerprint: hexadecimal; of the tokenizer.
        eos: token ids that end a text.
        vocab_size, max_context: of the target.
        texts: of each question in turn, one at each temperature.
        draft_ms: milliseconds of the processor that one token took the draft where it was recorded, median.
    """

    about: About
    fingerprint: str
    eos: tuple[int, ...]
    vocab_size: int
    max_context: int
    draft_ms: float
    texts: tuple[RecordedText, ...]

    def identity(self, text: RecordedText) -> Identity:
        """What the protocol knows of a text, besides its prompt."""
        return Identity(
            PROTOCOL_VERSION,
            bytes.fromhex(self.fingerprint),
            text.temperature,
            0,
            1.0,
            text.seed,
            self.eos,
            False,
            self.about.tokens,
        )

    def tokens_per_round(self, k: int) -> float:
        """Committed tokens per verification of drafts of `k` tokens, one round after the other, over all texts."""
        tokens = rounds = 0
        for text in self.texts:
            place = 0
            while place < len(text.tokens):
                draft = [text.proposal(place + one).token for one in range(k)]
                place += len(text.decide(place, draft))
                rounds += 1
            tokens += len(text.tokens)
        return tokens / rounds


def read_recording(path: Path, about: About | None = None) -> Recording:
    """Read what `keep_recording` wrote.

    Args:
        path: of the file.
        about: what it must be of; None takes any.

    Raises:
        UsageError: it cannot be read, or is of something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Recording)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"the recording {path} cannot be read: {error}", hint="remove it, or name another file"
        ) from error
    if about is not None and found.about != about:
        raise UsageError(
            f"{path} is a recording of other models, questions, temperatures, lengths or seeds",
            hint="give the flags that it was made with, or name another file",
        )
    return found


def keep_recording(path: Path, recording: Recording) -> None:
    """Write it to a file."""
    path.write_bytes(msgspec.json.encode(recording))
