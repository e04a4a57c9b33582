"""What each client needs of us, in files that it can be given as they are: its password, and whom to trust."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from broker.certificates import CA
from broker.config import write_private
from broker.settings import ServerTls, User


def hand_out(directory: Path, users: Iterable[User], tls: ServerTls | None) -> None:
    """Write ``ROLE/NAME.password`` for each user and ``ROLE/ca.crt``, to copy to a device or to mount there.

    One folder per role, so that the workers' folder can be shared among workers without the devices' passwords. Each
    is readable by its owner only. Files of users who are no longer wanted are removed: their password is of no use. A
    file that is right stays the same file: a process may hold a lock on it, as a sign that the user is taken.

    Args:
        directory: made if missing.
        users: of the broker.
        tls: of its listener; without it there is nobody to trust.

    Raises:
        OSError: a file cannot be written.
    """
    wanted = {directory / user.role.value / f"{user.name}.password": user.password for user in users}
    for old in directory.glob("*/*.password"):
        if old not in wanted:
            old.unlink()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, password in wanted.items():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != password + "\n":
            _write_whole(path, password + "\n")
    if tls is not None:
        for folder in {path.parent for path in wanted}:
            shutil.copyfile(tls.ca, folder / CA)


def _write_whole(path: Path, text: str) -> None:
    """Clients may read it at any moment, so it appears at once or not at all."""
    part = path.with_suffix(".part")
    write_private(part, text)
    part.replace(path)
