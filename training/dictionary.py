"""Train the zstd dictionary of the codec on messages that the protocol would send for text that a target wrote.

    python -m training.dictionary target_text.npz flexspec_mq/codec/dictionary-v1

The text is a file of `flexspec draft collect`. Prompts are chats: they share how they begin (system prompt and the
user's mark) and how they end (the assistant's mark). A prompt in five is left for testing: the dictionary has seen
neither it nor any answer to it.
"""

from __future__ import annotations

import random
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import zstandard

from flexspec_mq.codec.compression import LEVEL, MIN_BYTES
from flexspec_mq.codec.wire import message_to_body
from schemas.messages import (
    MAX_DRAFT_TOKENS,
    PROTOCOL_VERSION,
    Close,
    CloseReason,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Message,
    Open,
    Poll,
    Verdict,
)
from training.draft.rows import load_rows

Tokens = tuple[int, ...]
TEST_SHARE = 5
"""Number of prompts of which one is for testing."""
DICTIONARY_BYTES = 32 * 1024
DICTIONARY_ID = 0x4653_0001
SEGMENT_BYTES, MATCH_BYTES = 128, 6
"""zstd's k and d for its cover algorithm; with both given, training has nothing random and no search."""
TRAIN_SEED = 1


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with its chat marks, and the target's answer to it."""

    prompt: Tokens
    answer: Tokens
    temperature: float


@dataclass(frozen=True, slots=True)
class Marks:
    """Tokens that all prompts begin and end with."""

    head: Tokens
    tail: Tokens

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Marks:
        """Find them."""
        prompts = [row.prompt for row in rows]
        return cls(_common_head(prompts), _common_head([prompt[::-1] for prompt in prompts])[::-1])

    def asked(self, prompt: Tokens) -> Tokens:
        """The user's own words in a prompt."""
        return prompt[len(self.head) : len(prompt) - len(self.tail)]


def load_text(path: Path) -> list[Row]:
    """Read the rows of an ``.npz`` file."""
    text = load_rows(path)
    rows = []
    for index, length in enumerate(text.prompt_len):
        row = text.row(index).tolist()
        rows.append(Row(tuple(row[:length]), tuple(row[length:]), round(float(text.temperature[index]), 3)))
    return rows


def split_by_prompt(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Training and test rows; all answers to one prompt fall on one side."""
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in rows:
        sides[crc32(np.asarray(row.prompt, dtype="<u4").tobytes()) % TEST_SHARE == 0].append(row)
    return sides


def messages(rows: Sequence[Row], *, marks: Marks, seed: int) -> Iterator[tuple[str, Message]]:
    """Every message that the sessions of `rows` could send, with what it is called in a table.

    A row is asked alone and at the end of a chat of three turns. Digests, session numbers, seeds and the
    fingerprint are random, as they are for a stranger's dictionary. A row without an answer only opens.
    """
    draw = random.Random(seed)
    for index, row in enumerate(rows):
        session = draw.getrandbits(32)
        identity = _identity(row, draw)
        earlier = (rows[index - 2], rows[index - 1])
        for name, prompt in (("open, 1 turn", row.prompt), ("open, 3 turns", _chat(earlier, row, marks))):
            yield name, Open(session, 1, identity, prompt, (), 0, 1, row.answer[:8])
        if not row.answer:
            continue
        held = row.answer[: draw.randint(1, len(row.answer))]
        yield "re-open", Open(session, 2, identity, row.prompt, held, 0, 9, ())
        yield from _during(row, session, draw)


def _during(row: Row, session: int, draw: random.Random) -> Iterator[tuple[str, Message]]:
    """Messages sent between an open's hello and the close, once each."""
    at = draw.randrange(len(row.answer))
    seq = at // 4 + 1
    for length in (4, 8, 16):
        tokens = row.answer[at : at + length]
        if len(tokens) == length:
            yield (
                f"draft, K = {length}",
                Draft(session, 1, seq, at, 0, draw.getrandbits(32), tokens, 0),
            )
        decided = row.answer[at : at + length + 1]
        if len(decided) == length + 1:
            verdict = Verdict(
                session,
                1,
                seq,
                at,
                decided,
                draw.getrandbits(32),
                Fin.NONE,
                draw.randint(0, 9),
                draw.randint(40, 90),
            )
            yield f"verdict, {length + 1} tokens", verdict
    digest = draw.getrandbits(32)
    yield "poll, no tokens", Poll(session, 1, seq, at, 0, digest, (), 0)
    unacknowledged = row.answer[at : at + MAX_DRAFT_TOKENS]
    if len(unacknowledged) == MAX_DRAFT_TOKENS:
        yield f"poll, {MAX_DRAFT_TOKENS} tokens", Poll(session, 1, seq, at, 0, digest, unacknowledged, 0)
        resent = Verdict(session, 1, seq, at, unacknowledged, digest, Fin.NONE, 0, 60)
        yield f"verdict, {MAX_DRAFT_TOKENS} tokens", resent
    yield "hello", Verdict(session, 1, 0, 0, (), digest, Fin.NONE, 0, 0, f"{session & 0xFFFF:04x}", 30)
    yield "close", Close(session, 1, len(row.answer), CloseReason.DONE)
    yield "error", Error(session, 1, ErrorCode.BUSY, draw.randint(100, 3000), f"{session & 0xFFFF:04x}")


def _identity(row: Row, draw: random.Random) -> Identity:
    top_p = 0.95 if row.temperature else 1.0
    limit = draw.choice((64, 128, 256, 512, 1024))
    return Identity(
        PROTOCOL_VERSION,
        draw.randbytes(16),
        row.temperature,
        0,
        top_p,
        draw.getrandbits(64),
        (2,),
        False,
        limit,
    )


def _chat(earlier: Sequence[Row], row: Row, marks: Marks) -> Tokens:
    """A prompt of several turns: earlier questions and answers, then this question.

    Between two turns stand the tail's first two tokens, which end a turn, and the head's last three, which
    open the user's: true of ChatML.
    """
    prompt = marks.head
    between = marks.tail[:2] + marks.head[-3:]
    for turn in earlier:
        prompt += marks.asked(turn.prompt) + marks.tail + turn.answer[: _end(turn.answer, marks)] + between
    return prompt + marks.asked(row.prompt) + marks.tail


def _end(answer: Tokens, marks: Marks) -> int:
    """Where an answer ends, without the token that ends a turn."""
    return len(answer) - (answer[-1:] == marks.tail[:1])


def _common_head(sequences: Sequence[Tokens]) -> Tokens:
    first, last = min(sequences), max(sequences)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]


def train(rows: Sequence[Row], marks: Marks) -> bytes:
    """Train a dictionary on every body that is long enough to be compressed."""
    bodies = (message_to_body(message) for _, message in messages(rows, marks=marks, seed=TRAIN_SEED))
    samples: list[bytes | bytearray | memoryview] = [body for body in bodies if len(body) >= MIN_BYTES]
    trained = zstandard.train_dictionary(
        DICTIONARY_BYTES, samples, k=SEGMENT_BYTES, d=MATCH_BYTES, level=LEVEL, dict_id=DICTIONARY_ID
    )
    return trained.as_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = ArgumentParser(
        prog="python -m training.dictionary", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("text", type=Path, metavar="FILE.npz", help="what a target wrote")
    parser.add_argument("out", type=Path, help="the dictionary; replaced")
    options = parser.parse_args(arguments)
    rows = load_text(options.text)
    training, _ = split_by_prompt(rows)
    options.out.write_bytes(train(training, Marks.of(rows)))
    print(f"{options.out}: {DICTIONARY_BYTES} bytes from {len(training)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
