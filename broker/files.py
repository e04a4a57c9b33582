"""Files that hold secrets: whole or not at all, readable by their owner only, who is the owner of the folder."""

import os
from errno import EDQUOT, ENOSPC
from pathlib import Path

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import BrokerError


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file that only its owner can read; one that is there is replaced at once.

    Written by root it belongs to whom its folder belongs to: a service that runs as another user reads what an
    administrator adds.

    Args:
        path: path of the file.
        text: all of it.
        durable: wait until it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    with whole(path, durable=durable) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.chown(part, folder.st_uid, folder.st_gid)


def rewrite_private(path: Path, text: str) -> None:
    """Write as `write_private` does; where the disk is full, over what is there, whose room it has already.

    For files that shut somebody out. Where the text is shorter than before, empty lines fill the file, so that there
    is one write and nothing half old and half new to read after it; a power cut within that write may leave both.

    Raises:
        OSError: it cannot be written, or the disk is full and has no room for what it is longer than before.
    """
    try:
        write_private(path, text)
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT) or not path.exists():
            raise
        _write_over(path, text.rstrip("\n").encode("utf-8") + b"\n", error)


def _write_over(path: Path, data: bytes, full: OSError) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        before = os.fstat(descriptor)
        if len(data) > max(before.st_size, before.st_blocks * 512):
            raise full
        os.pwrite(descriptor, data.ljust(before.st_size, b"\n"), 0)
        os.fsync(descriptor)
        # Who has read it within the write sees that it is another one now.
        os.utime(descriptor, ns=(before.st_atime_ns, os.fstat(descriptor).st_mtime_ns + 1))
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can look into, who is the owner of the folder above; returns it.

    Raises:
        OSError: it cannot be made.
    """
    if not path.exists():
        path.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            above = path.parent.stat()
            os.chown(path, above.st_uid, above.st_gid)
    return path


def read_text(path: Path) -> str:
    """All of a text file.

    Raises:
        BrokerError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"{path} cannot be read: {error}", hint="give another file") from error
