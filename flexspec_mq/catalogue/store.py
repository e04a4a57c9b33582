"""The memory of a follower, in one file of a folder.

The file is written beside its place, synced, and renamed, and begins with a digest of the rest. So a crash leaves the
record before or the one after, and a file that is neither is found out.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from flexspec_mq import topics
from flexspec_mq.catalogue.follower import Record
from flexspec_mq.catalogue.refusals import RecordError
from flexspec_mq.daemon.files import alone, whole
from schemas.catalogue import MAX_PAYLOAD

_DIGEST: Final = hashlib.sha256().digest_size
_MOST: Final = 4 * MAX_PAYLOAD
"""Bytes of a file: three payloads and little else."""


class _File(msgspec.Struct, frozen=True, array_like=True):
    family: str
    record: Record


class Store:
    """The record of one family.

    Programs on one machine may share it: it keeps the newest of what they save.

    Raises:
        UsageError: the family cannot have that name.
    """

    def __init__(self, folder: Path, family: str) -> None:
        self.path = folder / f"{topics.checked('family', family)}.catalogue"
        self._family = family

    def load(self) -> Record | None:
        """Read the record that was saved last; None before the first time.

        Raises:
            RecordError: the file is damaged or of another family, or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                data = file.read(_MOST + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be read: {error}", hint="make it readable for this program's user"
            ) from error
        digest, body = data[:_DIGEST], data[_DIGEST:]
        if len(data) > _MOST or hashlib.sha256(body).digest() != digest:
            raise RecordError(f"{self.path} is damaged", hint=_REMOVE)
        try:
            stored = msgspec.msgpack.decode(body, type=_File)
        except (msgspec.MsgspecError, ValueError) as error:
            raise RecordError(f"{self.path} is of another release: {error}", hint=_REMOVE) from error
        if stored.family != self._family:
            raise RecordError(
                f"{self.path} is of the family {stored.family}, not {self._family}",
                hint="give each family's file its own name back, or remove it",
            )
        return stored.record

    def save(self, record: Record) -> None:
        """Keep a record, unless it is older than what is there; return when it is on the disk.

        Raises:
            RecordError: it cannot be written, or what is there is damaged.
        """
        try:
            with self._locked():
                kept = self.load()
                if kept is not None and (kept.serial, kept.epoch) > (record.serial, record.epoch):
                    return
                body = msgspec.msgpack.encode(_File(self._family, record))
                with whole(self.path, durable=True) as part:
                    part.write_bytes(hashlib.sha256(body).digest() + body)
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be written: {error}",
                hint="without it nothing new is taken up: make room, or give another --state-dir",
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file, without what a process that was killed has left half-written."""
        with alone(self.path.with_suffix(".lock")):
            for old in self.path.parent.glob(f".{self.path.name}.*.part"):
                old.unlink(missing_ok=True)
            yield


_REMOVE: Final = (
    "remove it to begin anew; then also a catalogue that is older than what was seen before is taken up"
)
