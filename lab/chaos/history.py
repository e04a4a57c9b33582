"""The history of a run: one JSON line for each thing that happened, whoever saw it.

Times are of the machine's monotonic clock, which all processes share and no fault moves.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

PROVISIONAL = "provisional"
"""Offline mode, and the code of an attempt that ended without the whole text, as it allows."""


class _Record(msgspec.Struct, frozen=True, tag_field="is", tag=str.lower, omit_defaults=True):
    at: float


class Began(_Record, frozen=True):
    """The run begins: its workers, and seconds beyond a request's patience in which a failure is to be told."""

    seed: int
    grace: float
    workers: tuple[str, ...]


class Wanted(_Record, frozen=True):
    """Text of the target alone, computed apart: its tokens, what a user sees of them, and ``stop`` or ``length``."""

    text: int
    seed: int
    edge: str
    tokens: tuple[int, ...]
    written: str
    reason: str


class Asked(_Record, frozen=True):
    """A user asks a device; the second attempt has the same idempotency key as the first.

    Attributes:
        patience: seconds without a token before it may fail.
        named: whether the request says so; otherwise one that cannot begin is refused within seconds.
        offline: offline mode.
    """

    text: int
    attempt: int
    patience: float
    named: bool = True
    offline: str = "hold"


class Piece(_Record, frozen=True):
    """A user got a piece of an answer."""

    text: int
    attempt: int
    piece: str


class Unverified(_Record, frozen=True):
    """A user is told of text that nobody has verified, behind so many characters of it."""

    text: int
    attempt: int
    begins: int
    piece: str


class Ended(_Record, frozen=True):
    """An attempt is over: with a reason, tokens and the API's figures, or with a code and words for people."""

    text: int
    attempt: int
    reason: str = ""
    tokens: int = 0
    code: str = ""
    why: str = ""
    figures: dict[str, float] = {}


class Struck(_Record, frozen=True):
    """A fault of the schedule begins."""

    fault: int
    kind: str
    target: str


class Healed(_Record, frozen=True):
    """A fault is over: what it hit works again, or is ready again."""

    fault: int
    skipped: str = ""


class Session(_Record, frozen=True):
    """A device begins a text in a session. `restarts` tells its processes apart."""

    edge: str
    restarts: int
    session: int
    seed: int


class Opened(_Record, frozen=True):
    """A device opens a session; `worker` where it is one that it knows already."""

    edge: str
    restarts: int
    session: int
    worker: str = ""


class Judged(_Record, frozen=True):
    """A verdict came to a device, and was believed."""

    edge: str
    restarts: int
    session: int
    worker: str
    start: int
    count: int


class Committed(_Record, frozen=True):
    """A device commits tokens."""

    edge: str
    restarts: int
    session: int
    start: int
    tokens: tuple[int, ...]


class Finished(_Record, frozen=True):
    """A session of a device is over."""

    edge: str
    restarts: int
    session: int
    reason: str


class Left(_Record, frozen=True):
    """A figure of a daemon when all was over, and what it should be at most."""

    daemon: str
    figure: str
    value: float
    most: float


Record = (
    Began | Wanted | Asked | Piece | Unverified | Ended | Struck | Healed
    | Session | Opened | Judged | Committed | Finished | Left
)  # fmt: skip
_DECODER = msgspec.json.Decoder(Record)
_ENCODER = msgspec.json.Encoder()


class HistoryFile:
    """A file that records are added to; each reaches the kernel at once, so it survives SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, record: Record) -> None:
        """Add a record."""
        os.write(self._file, _ENCODER.encode(record) + b"\n")


def read_history(paths: Iterable[Path]) -> list[Record]:
    """Records of all files by their time; the last line of a file may be torn, as its writer may have been killed."""

    def records(path: Path) -> Iterator[Record]:
        lines = path.read_bytes().split(b"\n")
        yield from map(_DECODER.decode, filter(None, lines[:-1]))

    return sorted((record for path in paths for record in records(path)), key=lambda record: record.at)
