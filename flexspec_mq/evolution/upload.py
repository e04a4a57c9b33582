"""Heads at the place from which workers fetch them: put there, and compared with what is to be published."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from flexspec_mq.errors import UsageError, how_to_install
from flexspec_mq.heads.manifest import MANIFEST, digest, read_head

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 20


def upload(folder: Path, heads: str) -> tuple[bytes, bool]:
    """See that a head lies at ``<heads>/<digest>``, copying it there if it does not.

    The manifest is copied last, so nobody fetches half a head.

    Args:
        folder: the head, which is compared with its manifest first.
        heads: URL or path of all heads.

    Returns:
        The digest of its manifest, and whether it had to be copied.

    Raises:
        HeadError: the folder's files are not those that its manifest lists.
        UsageError: what is at the URL is another head, or it is not there and cannot be copied there.
    """
    manifest = read_head(folder)
    data = (folder / MANIFEST).read_bytes()
    name = digest(data)
    files = [one.name for one in manifest.files]
    place = f"{heads.rstrip('/')}/{name.hex()}"
    system, path = _place(place)
    if _there(system, path, data, files, folder):
        return name, False
    try:
        system.makedirs(path, exist_ok=True)
        for file in (*files, MANIFEST):
            system.put_file(str(folder / file), f"{path}/{file}")
    except (OSError, NotImplementedError, ValueError) as error:
        raise UsageError(
            f"the head cannot be written to {place}: {error or type(error).__name__}",
            hint=f"copy the files of {folder} to {place} yourself, {MANIFEST} last; then give this command again",
        ) from error
    if not _there(system, path, data, files, folder):
        raise UsageError(
            f"what was written to {place} cannot be read back as it was",
            hint="look at the permissions and the room there; then give this command again",
        )
    return name, True


def _place(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise UsageError(
            "heads are copied by fsspec", hint=f"install it, {how_to_install('heads')}"
        ) from error
    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(
            f"{url} is no place for heads: {error}", hint="for example https://HOST/heads"
        ) from error
    return system, str(path)


def _there(system: Any, path: str, manifest: bytes, files: list[str], folder: Path) -> bool:
    """Whether all of the head is there, byte by byte."""
    wanted = [(MANIFEST, hashlib.sha256(manifest).digest())]
    for name in files:
        with (folder / name).open("rb") as file:
            wanted.append((name, hashlib.file_digest(file, "sha256").digest()))
    return all(_sha256(system, f"{path}/{name}") == found for name, found in wanted)


def _sha256(system: Any, path: str) -> bytes | None:
    """Of a file; None if there is none that can be read."""
    found = hashlib.sha256()
    try:
        with system.open(path, "rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
    except OSError:
        return None
    return found.digest()
