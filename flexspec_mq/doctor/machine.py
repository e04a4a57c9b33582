"""Checks of this machine: packages, the cache, the model, ports and, as far as /proc lets us see, processes."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import tempfile
import time
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from flexspec_mq.daemon.children import started
from flexspec_mq.doctor.checks import on_thread
from flexspec_mq.errors import FingerprintError, ModelError, UsageError, how_to_install
from flexspec_mq.models.cache import models_cache
from flexspec_mq.models.default import default_model_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    from flexspec_mq.doctor.checks import Report

T = TypeVar("T")

_DISTRIBUTION = "flexspec-mq"
_TAKEN = "taken"
_ESTABLISHED, _LISTENS = "01", "0A"
_LOADING = 600.0
"""Seconds from the start of a process to that of its daemon, at most."""
_PROBE_BYTES = 1_000_000
_ROOM_BYTES = 1_000_000_000
"""Free space below which the cache has no room for the default model and draft, which need 0.6 GB."""


def requirements() -> list[Requirement]:
    """Requirements of our package, as its metadata says; empty where it is not installed as a package."""
    try:
        return [Requirement(line) for line in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return []


def complaints(asked: list[Requirement], extra: str) -> list[str]:
    """Faults of the installed packages that an extra of ours asks for; those for all have the extra ""."""
    wrong = []
    for requirement in asked:
        markers = requirement.marker
        mine = markers is None if not extra else markers is not None and markers.evaluate({"extra": extra})
        if not mine:
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            bounds = ",".join(sorted(map(str, requirement.specifier), reverse=True))
            wrong.append(f"{requirement.name} is {version}, asked for is {bounds}")
    return wrong


def check_packages(report: Report, needed: tuple[str, ...], useful: dict[str, str]) -> None:
    """Check Python and the packages."""
    asked = requirements()
    wrong = [complaint for extra in ("", *needed) for complaint in complaints(asked, extra)]
    python = platform.python_version()
    oldest = metadata.metadata(_DISTRIBUTION)["Requires-Python"] if asked else ">=3.11"
    if not SpecifierSet(oldest).contains(python, prereleases=True):
        wrong.insert(0, f"Python is {python}, asked for is {oldest}")
    if wrong:
        report.fail("packages", "; ".join(wrong), f"install them, {how_to_install(','.join(needed))}")
    elif not asked:
        detail = f"Python {python}; flexspec-mq is not installed as a package"
        report.warn(detail, "its packages could not be compared: pip install it")
    else:
        report.ok(f"Python {python}, {len(asked)} packages asked for")
    for extra, loss in useful.items():
        if lacking := complaints(asked, extra):
            report.warn(f"{'; '.join(lacking)}: {loss}", f"if you want it, {how_to_install(extra)}")


def check_cache(report: Report) -> None:
    """Check space and permission of the models' cache by writing; where it is not there yet, above it."""
    advice = "free some space there, or set XDG_CACHE_HOME to a folder on another disk"
    try:
        cache = models_cache()
    except ModelError as error:
        report.fail("disk full", error.message, error.hint)
        return
    folder = next(parent for parent in (cache, *cache.parents) if parent.exists())
    if not folder.is_dir():
        report.fail("disk full", f"{folder} is a file, and should be a folder", advice)
        return
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".flexspec-doctor-") as probe:
            probe.write(b"\xa5" * _PROBE_BYTES)  # quotas show only when something is written
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            report.fail("disk full", f"{folder} takes no further megabyte: {error.strerror}", advice)
        else:
            detail = f"{folder} cannot be written to: {error.strerror}"
            report.fail("not writable", detail, f"let this user write there ({advice})")
        return
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        report.warn(f"{folder} has only {free / 1e6:.0f} MB left", advice, "disk nearly full")
    else:
        report.ok(f"{folder}: writable, {free / 1e9:.1f} GB left")


async def check_port(
    report: Report, host: str, port: int | None, what: str, flag: str, ours: Callable[[], str]
) -> None:
    """Check whether a server can listen at an address of this machine, or a daemon of `ours` does so already."""
    if not port:
        report.ok(f"no port is asked for {what}" if port is None else f"{what} takes any free port")
        return
    why = _bind(host, port)
    if not why:
        report.ok(f"{host}:{port} is free for {what}")
    elif why != _TAKEN:
        advice = "give an address and a port that this user may have"
        report.fail("port taken", f"{what} cannot be served at {host}:{port}: {why}", advice)
    else:
        who = who_listens(port)
        if running := await on_thread(ours):
            report.ok(f"already running: {running}{f', {who}' if who else ''}")
        elif not report.findings:
            detail = f"{host}:{port}, where {what} is to be served, is taken{f' by {who}' if who else ''}"
            report.fail("port taken", detail, f"stop that, or give another port: {flag} N")


def _bind(host: str, port: int) -> str:
    """Why we cannot listen there; empty if we can."""
    where = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in where else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((where, port))
            listener.listen(1)
        except OSError as error:
            return _TAKEN if error.errno == errno.EADDRINUSE else error.strerror or str(error)
    return ""


async def load_model(
    report: Report, what: str, load: Callable[[], T], describe: Callable[[T], str], *, default: bool
) -> T | None:
    """Load a model on a thread as the daemon would; None if that failed, which is then reported."""
    try:
        if default and not (folder := default_model_folder()).is_dir():
            report.fail(
                "model missing",
                f"{what}: the default model is not prepared yet: there is no {folder}",
                "run `flexspec model prepare` (once, some 20 s; the daemon would do it at its first start); is "
                "XDG_CACHE_HOME that of the daemon's user?",
            )
            return None
        model = await on_thread(load)
    except FingerprintError as error:
        report.fail("wrong tokenizer", f"{what}: {error.message}", error.hint)
    except (ModelError, UsageError) as error:
        report.fail("model missing", f"{what}: {error.message}", error.hint)
    except Exception as error:  # noqa: BLE001  whatever torch has to say; the other checks go on
        detail = f"{what} cannot be loaded: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        report.fail("model missing", detail, "see `flexspec pair FOLDER FOLDER` for all of it")
    else:
        report.ok(describe(model))
        return model
    return None


def who_listens(port: int) -> str:
    """The process that listens on a TCP port, for people; empty if it is not to be seen."""
    links = {link for local, _, link in _sockets(_LISTENS) if local == port}
    return next((f"{_command(number) or 'a process'} (process {number})" for number in _holders(links)), "")


def connected(port: int, names: Container[str], born: float) -> list[int]:
    """Daemons of this machine that are connected to a broker's port, and came up at a time: others have other names."""
    links = {link for _, remote, link in _sockets(_ESTABLISHED) if remote == port}
    others = (number for number in _holders(links) if number != os.getpid())
    return [number for number in others if _runs(number, names) and _began_before(number, born)]


def _runs(number: int, names: Container[str]) -> bool:
    words = _words(number)
    return "doctor" not in words and any(Path(word).name in names for word in words[:3])


def _began_before(number: int, born: float) -> bool:
    """Whether a process began before its daemon came up, and not long before, in seconds since the Unix epoch."""
    if (ticks := started(number)) is None:
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return -2.0 < born - (time.time() - age) < _LOADING


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
