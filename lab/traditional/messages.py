"""Messages of traditional speculation: msgpack arrays. Probabilities are little-endian float16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from lab.traditional.speculation import Halves
from schemas.messages import Sampling

Count = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Tokens = tuple[Count, ...]


class Start(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A text begins; the guesses follow.

    Attributes:
        client: who asks; the target keeps what it read for each.
        text: number of the text, another one for each of a client's.
        prompt: token ids.
        sampling: how its tokens are chosen.
        eos: ids that end the text.
    """

    client: str
    text: Count
    prompt: Annotated[Tokens, Meta(min_length=1)]
    sampling: Sampling
    eos: Tokens


class Guesses(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Guesses of a round of a text, up.

    Attributes:
        text: number of the text.
        round: from 1.
        tokens: drafted ids, maybe none.
        halves: distribution of each in turn over the whole vocabulary; empty if none is sent.
    """

    text: Count
    round: Count
    tokens: Tokens
    halves: bytes = b""

    @classmethod
    def made(cls, text: int, number: int, tokens: Sequence[int], sent: Sequence[Halves]) -> Guesses:
        """A round whose distributions are all sent, or none."""
        return cls(text, number, tuple(tokens), b"".join(one.astype("<f2").tobytes() for one in sent))

    def distributions(self, vocab_size: int) -> Halves:
        """Distribution of each guess, [guesses, vocabulary]; [0, vocabulary] if none was sent."""
        found: Halves = np.frombuffer(self.halves, dtype="<f2").astype(np.float16).reshape(-1, vocab_size)
        return found


class RoundVerdict(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Answer of the target to a round: the guesses that stay, and mostly one token more."""

    text: Count
    round: Count
    tokens: Annotated[Tokens, Meta(min_length=1)]


Message = Start | Guesses | RoundVerdict

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder[Message](Message).decode
