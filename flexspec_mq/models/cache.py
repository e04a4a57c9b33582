"""The project's cache: where its folders are, and how each is made once, whoever else wants it at the same time."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flexspec_mq.daemon.files import alone
from flexspec_mq.errors import ModelError, UsageError

Progress = Callable[[str], None]


def cache_folder(name: str) -> Path:
    """A folder of the project's cache: ``$XDG_CACHE_HOME/flexspec-mq/NAME``, by default under ``~/.cache``.

    Raises:
        ModelError: There is no home folder either.
    """
    # The XDG base directory specification says to ignore relative paths.
    stated = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(stated):  # noqa: PTH117 - an empty string is no Path
        return Path(stated) / "flexspec-mq" / name
    try:
        return Path.home() / ".cache" / "flexspec-mq" / name
    except RuntimeError as error:
        raise ModelError(
            "there is no folder to keep the default model in: this user has no home",
            hint="set XDG_CACHE_HOME to a folder that can be written",
        ) from error


def models_cache() -> Path:
    """The folder of converted models.

    Raises:
        ModelError: As `cache_folder`.
    """
    return cache_folder("models")


def families_folder(stated: Path | None) -> Path:
    """Where a daemon keeps what it knows of its family: the folder that is stated, or else one of the cache.

    Raises:
        UsageError: None is stated, and there is no cache.
    """
    if stated is not None:
        return stated
    try:
        return cache_folder("families")
    except ModelError as error:
        raise UsageError(
            "there is no folder to remember the family's newest catalogue in: this user has no home",
            hint="give one with --state-dir, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error


@contextmanager
def whole_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Write a folder that appears whole or not at all.

    Args:
        folder: The folder.
        replace: Whether what is there at the end goes; otherwise it stays, unless it is empty.

    Yields:
        A folder beside it to write into, ``.NAME.*``.

    Raises:
        OSError: The folder cannot be written, or something else is there.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        work.chmod(0o755)
        yield work
        if replace and folder.exists():
            shutil.rmtree(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def made_once(
    folder: Path,
    is_there: Callable[[Path], bool],
    make: Callable[[], object],
    *,
    what: str,
    size: int,
    say: Progress,
) -> Path:
    """A folder of the cache, made if it is not there.

    Any number of processes may call this at once: one makes it, the others wait for that one, and then find it there.
    A folder that is there takes no lock, so that the cache may be read-only.

    Args:
        folder: The folder; of a name that ends in the version of what makes it, earlier versions are removed.
        is_there: Whether all of a folder is there.
        make: Makes it, whole or not at all. It may work in folders beside it, ``.NAME.*``: what a killed one left
            of them is removed first.
        what: Name of its contents, for people.
        size: Bytes, for people.
        say: Told when another process is waited for.

    Returns:
        ``folder``.

    Raises:
        ModelError: The cache cannot be written; and what ``make`` raises.
    """
    if is_there(folder):
        return folder
    try:
        with alone(
            folder.with_name(f".{folder.name}.lock"),
            lambda: say(f"waiting for another process that writes {what}"),
        ):
            if not is_there(folder):
                for leftover in folder.parent.glob(f".{folder.name}.*/"):
                    shutil.rmtree(leftover)
                make()
                for earlier in _earlier(folder):
                    shutil.rmtree(earlier, ignore_errors=True)
    except OSError as error:
        raise ModelError(
            f"cannot write {what} to {folder.parent}: {error}",
            hint=f"free some space ({size / 1e6:.0f} MB) or set XDG_CACHE_HOME to a folder that can be written",
        ) from error
    return folder


def _earlier(folder: Path) -> list[Path]:
    """Folders beside one that is called ``NAME-c3`` or ``NAME-onnx3``, which earlier versions of its maker made."""
    if (name := re.fullmatch(r"(.+-(?:c|onnx))(\d+)", folder.name)) is None:
        return []
    earlier = (folder.with_name(f"{name[1]}{number}") for number in range(int(name[2])))
    return [other for other in earlier if other.is_dir()]
