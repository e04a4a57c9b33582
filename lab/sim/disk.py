"""Power cuts: SQLite's writes and syncs are recorded, and its files rebuilt as a disk may hold them after each.

The recorder is a VFS of SQLite, put in front of the one that is there by `ctypes`: Python's module and we use the same
library. A disk keeps all that was synced. Later writes are kept or lost each by itself, and torn between sectors.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

_SECTOR = 512
_DURABLE = 0x100 | 0x800 | 0x4000 | 0x80000
"""Flags of files that a power cut is about: databases, their rollback and super journals, write-ahead logs."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written to a file that is open."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut to a size."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """All of a file is on the disk."""

    path: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A file deleted; `synced`: with its folder on the disk."""

    path: str
    synced: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the program under test said to others at this point."""

    said: Any


Step = Write | Truncate | Sync | Delete | Mark


@dataclass(slots=True)
class Recording:
    """All that happened to SQLite's files, in order.

    Attributes:
        full: whether the disk is, so that no file may grow.
        full_folders: folders whose disk is.
    """

    steps: list[Step] = field(default_factory=list)
    full: bool = False
    full_folders: set[str] = field(default_factory=set)

    def mark(self, said: Any) -> None:
        """Note what others were told."""
        self.steps.append(Mark(said))

    @property
    def cuts(self) -> list[int]:
        """Numbers of steps before each sync and behind it, at which the power may go; and the end."""
        syncs = [at for at, step in enumerate(self.steps) if isinstance(step, Sync)]
        return sorted({*syncs, *(at + 1 for at in syncs), len(self.steps)})

    def said(self, cut: int) -> list[Any]:
        """All marks before a cut."""
        return [step.said for step in self.steps[:cut] if isinstance(step, Mark)]

    def rebuild(
        self,
        cut: int,
        folder: Path,
        keeps: Callable[[], bool],
        before: Mapping[str, bytes] = MappingProxyType({}),
        of: Path | None = None,
    ) -> None:
        """Write the files as the disk may hold them after a power cut.

        Args:
            cut: steps that happened.
            folder: where to; files keep their names.
            keeps: decides for each sector written since its file's last sync whether it reached the disk.
            before: files that were there at first, by name.
            of: the folder whose files these are; None is all.
        """
        for name, there in before.items():
            (folder / name).write_bytes(there)
        for path, steps in self._by_file(cut).items():
            if of is not None and Path(path).parent != of:
                continue
            content = _content(steps, keeps, before.get(Path(path).name))
            target = folder / Path(path).name
            if content is None:
                target.unlink(missing_ok=True)
            else:
                target.write_bytes(content)

    def forget(self, folder: Path) -> None:
        """Forget what happened to the files of a folder."""
        inside = f"{folder}/"
        self.steps = [
            step for step in self.steps if not isinstance(step, Mark) and not step.path.startswith(inside)
        ]

    def _by_file(self, cut: int) -> dict[str, list[Write | Truncate | Sync | Delete]]:
        files: dict[str, list[Write | Truncate | Sync | Delete]] = {}
        for step in self.steps[:cut]:
            if not isinstance(step, Mark):
                files.setdefault(step.path, []).append(step)
        return files


def _content(
    steps: Sequence[Write | Truncate | Sync | Delete], keeps: Callable[[], bool], before: bytes | None
) -> bytes | None:
    """The content of one file; None where there is none."""
    last = max((at for at, step in enumerate(steps) if isinstance(step, Sync)), default=-1)
    content = None if before is None else bytearray(before)
    for at, step in enumerate(steps):
        durable = at <= last
        if isinstance(step, Delete):
            content = None if durable or step.synced or keeps() else content
        elif isinstance(step, Truncate):
            if content is not None and (durable or keeps()):
                content = _resized(content, step.size)
        elif isinstance(step, Write):
            for start, part in _sectors(step):
                if durable or keeps():
                    content = _resized(content or bytearray(), max(len(content or b""), start + len(part)))
                    content[start : start + len(part)] = part
    return None if content is None else bytes(content)


def _resized(content: bytearray, size: int) -> bytearray:
    return content[:size].ljust(size, b"\0")


def _sectors(step: Write) -> Iterator[tuple[int, bytes]]:
    at, end = step.offset, step.offset + len(step.data)
    while at < end:
        stop = min(end, (at // _SECTOR + 1) * _SECTOR)
        yield at, step.data[at - step.offset : stop - step.offset]
        at = stop


def nothing_more() -> bool:
    """The disk keeps nothing that was not synced."""
    return False


def everything() -> bool:
    """The disk keeps all that was written."""
    return True


def some(rng: random.Random) -> Callable[[], bool]:
    """The disk keeps half of what was not synced, at random."""
    return lambda: rng.random() < 0.5


class _Methods(Structure):
    _fields_ = (
        ("version", c_int),
        *((name, c_void_p) for name in ("close", "read", "write", "truncate", "sync")),
        *((f"rest{at}", c_void_p) for at in range(13)),
    )


class _File(Structure):
    _fields_ = (("methods", c_void_p),)


class _Vfs(Structure):
    _fields_ = (
        *((name, c_int) for name in ("version", "file_size", "longest_path")),
        ("next", c_void_p),
        ("name", c_char_p),
        *((name, c_void_p) for name in ("data", "open", "delete")),
        *((f"rest{at}", c_void_p) for at in range(13)),
    )


_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Shim:
    """The VFS in front of the default one, whose files stay as they are but for what a write, cut or sync calls."""

    def __init__(self, library: ctypes.CDLL, recording: Recording) -> None:
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        self.beneath = library.sqlite3_vfs_find(None)
        self._recording = recording
        self._paths: dict[int, str] = {}
        self._ours: dict[int, _Methods] = {}
        open_, delete = _Open(self.beneath.contents.open), _Delete(self.beneath.contents.delete)

        def opened(_vfs: int, name: int, file: Any, flags: int, told: int) -> int:
            result = open_(ctypes.addressof(self.beneath.contents), name, file, flags, told)
            if result == 0 and name and flags & _DURABLE:
                self._paths[ctypes.addressof(file.contents)] = ctypes.string_at(name).decode()
                file.contents.methods = ctypes.addressof(self._methods(file.contents.methods))
            return int(result)

        def deleted(_vfs: int, name: int, synced: int) -> int:
            result = delete(ctypes.addressof(self.beneath.contents), name, synced)
            if result == 0:
                recording.steps.append(Delete(ctypes.string_at(name).decode(), bool(synced)))
            return int(result)

        self._calls: list[Any] = [_Open(opened), _Delete(deleted)]
        self.vfs = _Vfs.from_buffer_copy(self.beneath.contents)
        self.vfs.name, self.vfs.next = b"recorded", None
        self.vfs.open, self.vfs.delete = (ctypes.cast(call, c_void_p).value for call in self._calls)

    def _methods(self, address: int) -> _Methods:
        """The methods at an address, with recording ones in place of those that change a file."""
        if address in self._ours:
            return self._ours[address]
        ours = self._ours[address] = _Methods.from_buffer_copy(_Methods.from_address(address))
        write, truncate, sync = _Write(ours.write), _Truncate(ours.truncate), _Sync(ours.sync)
        recording, paths = self._recording, self._paths

        def written(file: int, data: int, size: int, offset: int) -> int:
            full = recording.full or paths[file].rpartition("/")[0] in recording.full_folders
            if full and offset + size > Path(paths[file]).stat().st_size:
                return _sqlite3.SQLITE_FULL
            recording.steps.append(Write(paths[file], offset, ctypes.string_at(data, size)))
            return int(write(file, data, size, offset))

        def truncated(file: int, size: int) -> int:
            recording.steps.append(Truncate(paths[file], size))
            return int(truncate(file, size))

        def synced(file: int, flags: int) -> int:
            result = int(sync(file, flags))
            recording.steps.append(Sync(paths[file]))
            return result

        calls = _Write(written), _Truncate(truncated), _Sync(synced)
        self._calls += calls
        ours.write, ours.truncate, ours.sync = (ctypes.cast(call, c_void_p).value for call in calls)
        return ours


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder where a sync takes no time, where there is one: thousands of rebuilt files are opened."""
    memory = Path("/dev/shm")  # noqa: S108  a name of the system's
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@contextmanager
def recorded() -> Iterator[Recording]:
    """Record what all connections of SQLite do that are opened within the block, in all threads of this process."""
    library = ctypes.CDLL(_loaded_library())
    recording = Recording()
    shim = _Shim(library, recording)
    if library.sqlite3_vfs_register(ctypes.byref(shim.vfs), 1):
        raise OSError("SQLite takes no other VFS")
    try:
        yield recording
    finally:
        library.sqlite3_vfs_unregister(ctypes.byref(shim.vfs))
        library.sqlite3_vfs_register(shim.beneath, 1)


def _loaded_library() -> str:
    """The library that Python's own module uses: one of that name, or the module itself where it is built in."""
    maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
    shared = {line.split()[-1] for line in maps if "/libsqlite3." in line}
    return shared.pop() if shared else str(_sqlite3.__file__)
