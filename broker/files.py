"""Files that hold secrets: whole or not at all, readable by their owner only, who is the owner of the folder."""

from __future__ import annotations

import os
from pathlib import Path

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import BrokerError


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; one that is there is replaced at once.

    Written by root it belongs to whom its folder belongs to: a service that runs as another user reads what an
    administrator adds.

    Raises:
        OSError: it cannot be written.
    """
    with whole(path, durable=True) as part:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.chown(part, folder.st_uid, folder.st_gid)


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
