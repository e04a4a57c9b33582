"""The folder of a run: what the run is, and every question that all strategies have been asked.

``run.json`` says which run it is, ``answers.jsonl`` has a line for each question of a channel. A line is written when
all strategies have answered or failed, so that none is there without the others it is compared with. A failure is a
result: it is not asked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from flexspec_mq.daemon.files import alone, whole
from flexspec_mq.errors import UsageError
from lab.bench.figures import Failed, Sample

RUN, ANSWERS, _LOCK = "run.json", "answers.jsonl", ".lock"


class BenchChannel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where strategies are compared.

    Attributes:
        link: name of a profile or recording, or 'loopback'.
        delay_ms: milliseconds by which each forward of the target takes longer.
    """

    link: str
    delay_ms: float = 0.0

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.link}, {self.delay_ms:g} ms more a forward" if self.delay_ms else self.link


class Answered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question that all strategies have been asked.

    Attributes:
        channel: where.
        question: place of the question.
        begins_s: second of the channel at which each answer began; None on loopback.
        samples: answers, one of each strategy that answered, in that order.
        at: when the last one had, UTC.
        load: load of the machine then.
        failed: failures, one of each strategy that did not.
    """

    channel: BenchChannel
    question: int
    begins_s: float | None
    samples: list[Sample]
    at: str
    load: float
    failed: list[Failed] = []


class RunFolder:
    """Made by `folder_of_run`.

    Args:
        path: path of the folder.
        answered: questions that were answered before.
    """

    def __init__(self, path: Path, answered: list[Answered]) -> None:
        self.path = path
        self._answered = answered

    def answered_on(self, channel: BenchChannel) -> list[Answered]:
        """Answers on a channel, by question."""
        return sorted((one for one in self._answered if one.channel == channel), key=lambda one: one.question)

    def add(self, one: Answered) -> None:
        """Keep it; it is in the file before this returns."""
        with (self.path / ANSWERS).open("ab") as file:
            file.write(msgspec.json.encode(one) + b"\n")
        self._answered.append(one)


@contextmanager
def folder_of_run(path: Path, run: Mapping[str, Any]) -> Iterator[RunFolder]:
    """A folder for this run alone: a new one, or that of the same run, which then goes on.

    Args:
        path: made if it is not there.
        run: JSON that says what must not change while it lasts.

    Raises:
        UsageError: it is another run's, another program is in it, or it cannot be read or written.
    """

    def taken() -> None:
        raise UsageError(f"another bench writes to {path}", hint="wait for its end, or name another --out")

    with ExitStack() as held:
        try:
            others = path.exists() and any(one.name != _LOCK for one in path.iterdir())
            if others and not (path / RUN).exists():
                raise UsageError(
                    f"{path} is not empty and holds no run", hint="name a new or empty folder with --out"
                )
            held.enter_context(alone(path / _LOCK, taken))
            _begin(path, run)
            answered = _read(path / ANSWERS)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(f"{path} cannot be used: {why}", hint="name another --out") from error
        yield RunFolder(path, answered)


def _begin(path: Path, run: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(run))
    file = path / RUN
    if not file.exists():
        with whole(file) as part:
            part.write_text(json.dumps(wanted, indent=1) + "\n", "utf-8")
        return
    try:
        there = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}", hint="name another --out") from error
    if there != wanted:
        names = sorted(set(there) | set(wanted)) if isinstance(there, dict) else []
        other = [name for name in names if there.get(name) != wanted.get(name)]
        raise UsageError(
            f"{path} holds another run, with other {', '.join(other) or 'contents'}",
            hint="give the flags that it was begun with, or name another --out",
        )


def _read(file: Path) -> list[Answered]:
    """All whole lines; what a killed run left of a last one is cut off."""
    if not file.exists():
        return []
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with file.open("r+b") as torn:
            torn.truncate(end)
    found = []
    for number, line in enumerate(data[:end].splitlines(), start=1):
        try:
            found.append(msgspec.json.decode(line, type=Answered))
        except msgspec.DecodeError as error:
            raise UsageError(
                f"{file} line {number} is damaged: {error}", hint="name another --out"
            ) from error
    return found
