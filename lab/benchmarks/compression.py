"""What a message weighs, and what zstd and its dictionary take off it.

The messages are those that the protocol would send for text that a target wrote. One prompt in five is for
testing: the dictionary has seen neither it nor any answer to it. A sample of these is the default text. With
``--prompts``, opens are also made for prompts from somewhere else entirely.

Train the dictionary that ships (about a second)::

    python -m lab.benchmarks.compression --text target_text.npz --train-dictionary flexspec_mq/codec/dictionary-v1
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import msgspec
import zstandard

from flexspec_mq.codec import Codec
from flexspec_mq.codec.compression import CURRENT, LEVEL, MIN_BYTES, ZSTD, dictionary, make_compressor
from flexspec_mq.codec.wire import message_to_body
from lab.benchmarks import _common
from lab.benchmarks.parts.traffic import Marks, Row, load_text, messages, split_by_prompt
from schemas.messages import Message

_CODEC = Codec()

DICTIONARY_BYTES = 32 * 1024
DICTIONARY_ID = 0x4653_0001
SEGMENT_BYTES, MATCH_BYTES = 128, 6
"""zstd's k and d for its cover algorithm; with both given, training has nothing random and no search."""

TRAIN_SEED, TEST_SEED = 1, 2
QUICK_ROWS = 100
SAMPLE = Path(__file__).with_name("unseen_text.npz")
"""Rows of the testing share, so that the benchmark runs without any other file."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """Means over the test messages of one kind; bytes of whole payloads, microseconds on one thread.

    Attributes:
        message: what it is.
        count: how many were measured.
        ints: bytes with token ids as msgpack integers.
        plain: bytes without compression.
        zstd: bytes with zstd forced on, without a dictionary.
        dictionary: bytes with zstd and the dictionary forced on.
        sent: bytes that `encode` makes.
        encode_us: to encode.
        decode_us: to decode.
    """

    message: str
    count: int
    ints: float
    plain: float
    zstd: float
    dictionary: float
    sent: float
    encode_us: float
    decode_us: float


def train(rows: Sequence[Row], marks: Marks) -> bytes:
    """Train a dictionary on every body that is long enough to be compressed."""
    made = (message_to_body(message) for _, message in messages(rows, marks=marks, seed=TRAIN_SEED))
    samples: list[bytes | bytearray | memoryview] = [body for body in made if len(body) >= MIN_BYTES]
    trained = zstandard.train_dictionary(
        DICTIONARY_BYTES, samples, k=SEGMENT_BYTES, d=MATCH_BYTES, level=LEVEL, dict_id=DICTIONARY_ID
    )
    return trained.as_bytes()


def judge(named: Iterable[tuple[str, Message]]) -> list[Line]:
    """Measure messages, one line for each name."""
    groups: defaultdict[str, list[Message]] = defaultdict(list)
    for name, message in named:
        groups[name].append(message)
    return [_line(name, group) for name, group in groups.items()]


def _line(name: str, group: Sequence[Message]) -> Line:
    bodies = [message_to_body(message) for message in group]
    payloads = [_CODEC.encode(message) for message in group]
    zstd, with_dictionary = make_compressor(dictionary(ZSTD)), make_compressor(dictionary(CURRENT))
    return Line(
        name,
        len(group),
        ints=1 + fmean(len(msgspec.msgpack.encode(message)) for message in group),
        plain=1 + fmean(map(len, bodies)),
        zstd=1 + fmean(len(zstd.compress(body)) for body in bodies),
        dictionary=1 + fmean(len(with_dictionary.compress(body)) for body in bodies),
        sent=fmean(map(len, payloads)),
        encode_us=_microseconds(_CODEC.encode, group),
        decode_us=_microseconds(_CODEC.decode, payloads),
    )


def _microseconds(function: Callable[[T], object], inputs: Sequence[T]) -> float:
    """Mean time of a call, best of three passes."""
    passes = []
    for _ in range(3):
        began = time.perf_counter()
        for item in inputs:
            function(item)
        passes.append(time.perf_counter() - began)
    return 1e6 * min(passes) / len(inputs)


def foreign_rows(path: Path, tokenizer: Path, marks: Marks) -> list[Row]:
    """Rows without answers, from the `prompt`, or the first of the `turns`, in each line of a JSON file."""
    from tokenizers import Tokenizer  # only needed here, and slow to import

    encoder = Tokenizer.from_file(str(tokenizer))
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        text = entry["turns"][0] if "turns" in entry else entry["prompt"]
        ids = encoder.encode(text, add_special_tokens=False).ids
        rows.append(Row(marks.head + tuple(ids) + marks.tail, (), 0.0))
    return rows


def show(lines: Sequence[Line]) -> None:
    """Print the table."""
    columns = list(asdict(lines[0]))[1:]
    print(f"{'message':28}" + "".join(f"{column:>11}" for column in columns))
    for line in lines:
        values = list(asdict(line).values())
        print(f"{values[0]:28}{values[1]:11}" + "".join(f"{value:11.1f}" for value in values[2:]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the dictionary, or judge what ships."""
    parser = _common.parser(__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, default=SAMPLE, metavar="FILE.npz", help="what a target wrote")
    parser.add_argument(
        "--train-dictionary", type=Path, metavar="OUT", help="train on the training split, write, stop"
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="tokenizer.json", help="of --prompts; None is the default model's"
    )
    options = parser.parse_args(arguments)
    rows = load_text(options.text)
    marks = Marks.of(rows)
    training, test = split_by_prompt(rows)
    if options.train_dictionary:
        options.train_dictionary.write_bytes(train(training, marks))
        print(f"{options.train_dictionary}: {DICTIONARY_BYTES} bytes from {len(training)} rows")
        return 0
    most = QUICK_ROWS if options.quick else None
    lines = judge(messages(test[:most], marks=marks, seed=TEST_SEED))
    if options.prompts:
        foreign = foreign_rows(options.prompts, options.tokenizer or _default_tokenizer(), marks)[:most]
        lines += judge(
            (f"{name}, foreign", message) for name, message in messages(foreign, marks=marks, seed=TEST_SEED)
        )
    show(lines)
    results = {"rows": len(test[:most]), "lines": [asdict(line) for line in lines]}
    _common.finish("compression", results, quick=options.quick)
    return 0


def _default_tokenizer() -> Path:
    from flexspec_mq.models.default import default_model_path  # only needed here, and slow to import

    return default_model_path() / "tokenizer.json"


if __name__ == "__main__":
    sys.exit(main())
