"""This machine: Python, packages, folders, ports."""

from __future__ import annotations

import errno
import os
import platform
import re
import socket
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from flexspec_mq.daemon.children import started
from flexspec_mq.errors import ModelError, how_to_install
from flexspec_mq.models.cache import models_cache

if TYPE_CHECKING:
    from flexspec_mq.doctor.findings import Findings

_DISTRIBUTION = "flexspec-mq"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(?:;(.*))?")
_BOUND = re.compile(r"(>=|<)\s*([0-9][0-9.]*)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_LOADING = 600.0
"""Seconds from the start of a process to that of its daemon, at most."""
_PROBE_BYTES = 1_000_000
_LITTLE_BYTES = 100_000_000
"""Free space below which a folder is about to be full."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that we ask for.

    Attributes:
        extra: of ours that asks for it; empty if all of us needs it.
    """

    name: str
    bounds: str
    extra: str

    def complaint(self) -> str:
        """What is wrong with what is installed; empty if nothing is."""
        try:
            found = metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return f"{self.name} is not installed"
        return "" if fits(found, self.bounds) else f"{self.name} is {found}, asked for is {self.bounds}"


def fits(version: str, bounds: str) -> bool:
    """Whether a version keeps bounds such as ``>=2.9,<3``; bounds of other kinds are not looked at."""
    number = _numbers(version)
    for sign, bound in _BOUND.findall(bounds):
        limit = _numbers(bound)
        width = max(len(number), len(limit))
        have, want = (tuple(one) + (0,) * (width - len(one)) for one in (number, limit))
        if (sign == ">=" and have < want) or (sign == "<" and have >= want):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version: 2.9.1 of ``2.9.1rc2+cpu``."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def requirements(lines: list[str] | None = None) -> list[Requirement]:
    """What our package asks for, as its metadata says; empty where it is not installed as a package."""
    if lines is None:
        try:
            lines = metadata.requires(_DISTRIBUTION) or []
        except metadata.PackageNotFoundError:
            lines = []
    found: list[Requirement] = []
    for line in lines:
        if (match := _REQUIREMENT.match(line)) is not None:
            extra = _EXTRA.search(match[3] or "")
            found.append(Requirement(match[1], match[2].strip(), extra[1] if extra else ""))
    return found


def check_packages(findings: Findings, needed: tuple[str, ...], useful: dict[str, str]) -> None:
    """Python and the packages.

    Args:
        findings: to add to.
        needed: extras that this daemon cannot do without.
        useful: other extras, and what does not work without them.
    """
    asked = requirements()
    wrong = [said for one in asked if one.extra in ("", *needed) and (said := one.complaint())]
    oldest = _oldest_python()
    if not fits(platform.python_version(), oldest):
        wrong.insert(0, f"Python is {platform.python_version()}, asked for is {oldest}")
    if wrong:
        findings.fail(
            "packages", "packages", "; ".join(wrong), f"install them, {how_to_install(','.join(needed))}"
        )
    elif not asked:
        detail = f"Python {platform.python_version()}; flexspec-mq is not installed as a package"
        findings.warn("packages", detail, "its packages could not be compared: pip install it")
    else:
        findings.ok("packages", f"Python {platform.python_version()}, {len(asked)} packages asked for")
    for extra, loss in useful.items():
        lacking = [said for one in asked if one.extra == extra and (said := one.complaint())]
        if lacking:
            findings.warn(
                "packages", f"{'; '.join(lacking)}: {loss}", f"if you want it, {how_to_install(extra)}"
            )


def _oldest_python() -> str:
    try:
        return metadata.metadata(_DISTRIBUTION)["Requires-Python"]
    except (metadata.PackageNotFoundError, KeyError):
        return ">=3.11"


def check_folders(findings: Findings, cache_needs: int) -> None:
    """Space and permission in the folders that are written to, by writing.

    Args:
        findings: to add to.
        cache_needs: bytes that are still to be written to the cache of models.
    """
    try:
        cache = models_cache()
    except ModelError as error:
        findings.fail("cache", "disk full", error.message, error.hint)
    else:
        check_folder(
            findings,
            "cache",
            cache,
            cache_needs,
            "free some space there, or set XDG_CACHE_HOME to a folder on another disk",
        )
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        findings.fail("temp", "disk full", f"no folder for temporary files: {error}", "set TMPDIR to one")
        return
    check_folder(findings, "temp", temporary, 0, "free some space there, or set TMPDIR to another folder")


def check_folder(findings: Findings, name: str, folder: Path, needs: int, advice: str) -> None:
    """One folder; where it does not exist yet, the nearest one above it.

    Args:
        findings: to add to.
        name: of the check.
        folder: that is written to.
        needs: bytes that are still to be written there.
        advice: how to mend it.
    """
    place = next(one for one in (folder, *folder.parents) if one.exists())
    if not place.is_dir():
        findings.fail(name, "disk full", f"{place} is a file, and should be a folder", advice)
        return
    try:
        free = os.statvfs(place)
        with tempfile.TemporaryFile(dir=place, prefix=".flexspec-doctor-") as probe:
            probe.write(b"\xa5" * _PROBE_BYTES)  # quotas show only when something is written
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            detail = f"{place} takes no further megabyte: {error.strerror}"
            findings.fail(name, "disk full", detail, advice)
        else:
            detail = f"{place} cannot be written to: {error.strerror}"
            findings.fail(name, "not writable", detail, f"let this user write there ({advice})")
        return
    left = free.f_bavail * free.f_frsize
    if left < needs:
        detail = f"{place} has {_mb(left)} left, and the default model needs {_mb(needs)}"
        findings.fail(name, "disk full", detail, advice)
    elif left < _LITTLE_BYTES:
        findings.warn(name, f"{place} has only {_mb(left)} left", advice, "disk nearly full")
    else:
        findings.ok(name, f"{place}: writable, {_mb(left)} left")


def _mb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def port_complaint(host: str, port: int) -> str:
    """Why we cannot listen at an address of this machine; empty if we can."""
    where = "127.0.0.1" if host == "localhost" else host
    try:
        family = socket.AF_INET6 if isinstance(ip_address(where), IPv6Address) else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((where, port))
            listener.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "taken"
            return error.strerror or str(error)
    return ""


def who_listens(port: int) -> str:
    """The process that listens on a TCP port, as far as /proc lets us see; empty if it does not."""
    for number in _holding({one.inode for one in _sockets() if one.listens and one.local == port}):
        return f"{_command(number) or 'a process'} (process {number})"
    return ""


def connected(port: int, *names: str) -> list[int]:
    """Processes of this machine that run one of these commands or modules and are connected to a broker's port.

    Args:
        port: of the broker.
        names: of commands or modules.
    """
    inodes = {one.inode for one in _sockets() if not one.listens and one.remote == port}
    return [number for number in _holding(inodes) if _runs(number, names) and number != os.getpid()]


def just_before(number: int, epoch: float) -> bool:
    """Whether a process was started in the minutes before a time, in which it loads its model.

    Args:
        number: of the process.
        epoch: seconds since the Unix epoch.
    """
    ticks = started(number)
    if ticks is None:
        return False
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    began = time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
    return -2.0 < epoch - began < _LOADING


def ports_of(number: int) -> list[int]:
    """TCP ports that a process listens on."""
    return [one.local for one in _sockets() if one.listens and number in _holding({one.inode})]


def _runs(number: int, names: tuple[str, ...]) -> bool:
    words = _words(number)
    called = {Path(word).name for word in words[:3]}
    return bool(called & set(names)) and "doctor" not in words


def _command(number: int) -> str:
    """The beginning of a process's command line: arguments may hold what is nobody's business."""
    words = _words(number)
    if len(words) > 2 and words[1] == "-m":
        return f"{Path(words[0]).name} -m {words[2]}"
    if len(words) > 1 and Path(words[0]).name.startswith("python"):
        return Path(words[1]).name
    return Path(words[0]).name if words else ""


def _words(number: int) -> list[str]:
    try:
        line = Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:  # it has ended
        return []
    return [word.decode(errors="replace") for word in line.split(b"\0") if word]


def _holding(inodes: set[str]) -> list[int]:
    """Ids of the processes that have one of these sockets open, as far as we may see."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(one) in inodes for one in (folder / "fd").iterdir()):  # noqa: PTH115  no path
                found.append(int(folder.name))
        except OSError:  # it has ended, or is another user's
            continue
    return sorted(found)


@dataclass(frozen=True, slots=True)
class _Socket:
    """A line of /proc/net/tcp; ports are those of its two ends."""

    local: int
    remote: int
    listens: bool
    inode: str


def _sockets() -> list[_Socket]:
    """Established and listening TCP sockets of this machine; none where there is no /proc."""
    found: list[_Socket] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] in ("01", "0A"):
                local, remote = (int(fields[at].rpartition(":")[2], 16) for at in (1, 2))
                found.append(_Socket(local, remote, fields[3] == "0A", f"socket:[{fields[9]}]"))
    return found
