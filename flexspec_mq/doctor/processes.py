"""Processes of this machine and their TCP ports, as far as /proc lets us see; none where there is no /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_ESTABLISHED, _LISTENS = "01", "0A"


def who_listens(port: int) -> str:
    """The process that listens on a TCP port, for people; empty if it is not to be seen."""
    links = {link for local, _, link in _sockets(_LISTENS) if local == port}
    return next((f"{_command(number) or 'a process'} (process {number})" for number in _holders(links)), "")


def connected(port: int, names: Container[str]) -> list[int]:
    """Daemons of this machine that are connected to a broker's port."""
    links = {link for _, remote, link in _sockets(_ESTABLISHED) if remote == port}
    return [number for number in _holders(links) if number != os.getpid() and _runs(number, names)]


def _runs(number: int, names: Container[str]) -> bool:
    words = _words(number)
    return "doctor" not in words and any(Path(word).name in names for word in words[:3])


def _command(number: int) -> str:
    """The beginning of a process's command line: arguments may hold what is nobody's business."""
    words = _words(number)
    if len(words) > 2 and words[1] == "-m":
        return f"{Path(words[0]).name} -m {words[2]}"
    script = len(words) > 1 and Path(words[0]).name.startswith("python")
    return Path(words[script]).name if words else ""


def _words(number: int) -> list[str]:
    try:
        line = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:  # it has ended
        return []
    return [word.decode(errors="replace") for word in line.split(b"\0") if word]


def _holders(links: set[str]) -> Iterator[int]:
    """Processes that have one of these sockets open, the oldest number first."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            if any(os.readlink(link) in links for link in (folder / "fd").iterdir()):  # noqa: PTH115  no path
                yield int(folder.name)
        except OSError:  # it has ended, or is another user's
            continue


def _sockets(state: str) -> Iterator[tuple[int, int, str]]:
    """TCP sockets of this machine in a state: local port, remote port and the name of the link to them."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            local, remote = (int(fields[at].rpartition(":")[2], 16) for at in (1, 2))
            if fields[3] == state:
                yield local, remote, f"socket:[{fields[9]}]"
