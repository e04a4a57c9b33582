"""Files that appear whole or not at all, that others cannot read, and that programs lock."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flexspec_mq.errors import UsageError


@contextmanager
def whole(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a path to write to; what is there after the block takes the place of `path` at once.

    The folder is made. An error in the block leaves `path` as it was.

    Args:
        path: path of the file.
        durable: wait until file and folder are on the disk, so that a power cut after the block takes nothing back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
        if durable:
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def state_folder(name: str) -> Path | None:
    """A folder for what must outlive programs: ``$XDG_STATE_HOME/flexspec-mq/NAME``, by default in ``~/.local/state``.

    None for a user without a home.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117  the base directory specification ignores relative ones
        return Path(base, "flexspec-mq", name)
    try:
        return Path.home() / ".local" / "state" / "flexspec-mq" / name
    except RuntimeError:
        return None


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_private(path: Path, most: int, what: str, *, lacking: str, leaked: str) -> bytes:
    """Read a file that only its owner may read, or `most` bytes of it.

    Args:
        path: path of the file.
        most: bytes.
        what: contents, in words.
        lacking: hint where it cannot be read.
        leaked: hint where somebody may have read it.

    Raises:
        UsageError: it cannot be read, or others may read or write it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(most)
    except OSError as error:
        raise UsageError(f"the {what} in {path} cannot be read: {error}", hint=lacking) from error
    if mode & 0o077:
        raise UsageError(
            f"others than its owner may read or write the {what} in {path}",
            hint=f"chmod 600 {path}; and {leaked}",
        )
    return data


@contextmanager
def alone(lock: Path, waits: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only one of all threads and programs that is in such a block; the kernel frees it when its holder dies.

    Args:
        lock: an empty file, made with its folder and left there, as another program may be about to lock it.
        waits: called once where another one is in the block.

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waits is not None:
                waits()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
