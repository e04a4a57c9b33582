"""A lock between programs that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def alone(lock: Path, waits: Callable[[], None] | None = None) -> Iterator[None]:
    """Be the only one of all threads and programs that is in such a block.

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
