"""Checks of this machine: packages, the cache, the model and ports."""

import errno
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from typing import TypeVar

from packaging.requirements import Requirement

from flexspec_mq.daemon.tasks import on_thread
from flexspec_mq.doctor.checks import Fault, Said, Warned
from flexspec_mq.errors import FingerprintError, FlexSpecError, how_to_install
from flexspec_mq.models.cache import models_cache
from flexspec_mq.models.default import default_model_folder

T = TypeVar("T")

_DISTRIBUTION = "flexspec-mq"
_TAKEN = "taken"
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
        if not (markers is None if not extra else markers is not None and markers.evaluate({"extra": extra})):
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


def check_packages(needed: tuple[str, ...], useful: dict[str, str]) -> list[Said]:
    """Check Python and the packages of extras that are needed, and of those without which something is lost."""
    asked = requirements()
    wrong = [complaint for extra in ("", *needed) for complaint in complaints(asked, extra)]
    python = platform.python_version()  # pip looks at it; an older one could not read this module
    if wrong:
        advice = f"install them, {how_to_install(','.join(needed))}"
        said: list[Said] = [Fault("packages", "; ".join(wrong), advice)]
    elif not asked:
        detail = f"Python {python}; flexspec-mq is not installed as a package"
        said = [Warned(detail, "its packages could not be compared: pip install it")]
    else:
        said = [f"Python {python}, {len(asked)} packages asked for"]
    for extra, loss in useful.items():
        if lacking := complaints(asked, extra):
            said.append(Warned(f"{'; '.join(lacking)}: {loss}", f"if you want it, {how_to_install(extra)}"))
    return said


def check_cache() -> str:
    """Check space and permission of the models' cache by writing; where it is not there yet, above it."""
    advice = "free some space there, or set XDG_CACHE_HOME to a folder on another disk"
    cache = models_cache()
    folder = next(parent for parent in (cache, *cache.parents) if parent.exists())
    if not folder.is_dir():
        raise Fault("disk full", f"{folder} is a file, and should be a folder", advice)
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".flexspec-doctor-") as probe:
            probe.write(b"\xa5" * _PROBE_BYTES)  # quotas show only when something is written
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            detail = f"{folder} takes no further megabyte: {error.strerror}"
            raise Fault("disk full", detail, advice) from error
        detail = f"{folder} cannot be written to: {error.strerror}"
        raise Fault("not writable", detail, f"let this user write there ({advice})") from error
    free = shutil.disk_usage(folder).free
    if free < _ROOM_BYTES:
        raise Warned(f"{folder} has only {free / 1e6:.0f} MB left", advice, "disk nearly full")
    return f"{folder}: writable, {free / 1e9:.1f} GB left"


async def check_port(host: str, port: int | None, what: str, flag: str, ours: Callable[[], str]) -> str:
    """Check whether a server can listen at an address of this machine, or a daemon of `ours` does so already."""
    if not port:
        return f"no port is asked for {what}" if port is None else f"{what} takes any free port"
    why = _bind(host, port)
    if not why:
        return f"{host}:{port} is free for {what}"
    if why != _TAKEN:
        advice = "give an address and a port that this user may have"
        raise Fault("port taken", f"{what} cannot be served at {host}:{port}: {why}", advice)
    if running := await on_thread(ours):
        return f"already running: {running}"
    detail = f"{host}:{port}, where {what} is to be served, is taken"
    raise Fault("port taken", detail, f"stop what has it (`ss -ltnp`), or give another port: {flag} N")


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


async def load_model(what: str, load: Callable[[], T], *, default: bool) -> T:
    """Load a model on a thread as the daemon would.

    Raises:
        Fault: it cannot be loaded.
    """
    if default and not (folder := default_model_folder()).is_dir():
        raise Fault(
            "model missing",
            f"{what}: the default model is not prepared yet: there is no {folder}",
            "run `flexspec model prepare` (once, some 20 s; the daemon would do it at its first start); is "
            "XDG_CACHE_HOME that of the daemon's user?",
        )
    try:
        return await on_thread(load)
    except FlexSpecError as error:
        fault = "wrong tokenizer" if isinstance(error, FingerprintError) else "model missing"
        raise Fault(fault, f"{what}: {error.message}", error.hint) from error
    except Exception as error:  # whatever torch has to say; the other checks go on
        detail = f"{what} cannot be loaded: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise Fault("model missing", detail, "see `flexspec pair FOLDER FOLDER` for all of it") from error
