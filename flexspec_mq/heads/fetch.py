"""Fetching heads from wherever they lie into a folder of this machine.

A head is looked for at ``<URL>/<digest in hex>/``. Its manifest must have that digest, and every other file the size
and SHA-256 that the manifest says: neither the place nor the way there needs to be trusted. It appears in the cache
whole or not at all.
"""

import os
import shutil
from pathlib import Path
from typing import Final

from flexspec_mq.daemon.files import alone, sync
from flexspec_mq.heads.manifest import MANIFEST, MAX_MANIFEST, HeadError, Manifest, decode, digest, read_head
from flexspec_mq.heads.place import FetchError, Place

LIMIT: Final = 64 << 30
"""Bytes of all files of a head."""
KEPT: Final = 32
"""Heads in the cache; the one that was asked for longest ago goes first."""


def fetch_head(url: str, wanted: bytes, cache: Path) -> Path:
    """The folder of a head, all its files as its manifest says.

    Args:
        url: below which heads lie; `flexspec_mq.heads.place.scheme_of` says which there may be.
        wanted: digest of the head's manifest.
        cache: folder for heads; programs may share it.

    Raises:
        FetchError: its place cannot be reached or has no such head, or the way there broke.
        HeadError: what lies there is another one, too large, or not what its manifest says.
        UsageError: heads are not read from such a URL, or nothing here can.
    """
    folder = cache / wanted.hex()
    try:
        with alone(cache / f".{wanted.hex()}.lock"):
            if not _is_whole(folder, wanted):
                _fetch(Place(f"{url.rstrip('/')}/{wanted.hex()}"), wanted, folder)
            os.utime(folder)
        _forget_old(cache, folder)
    except OSError as error:
        if _is_whole(folder, wanted):  # a cache that cannot be written, and need not be
            return folder
        raise FetchError(
            f"the head {wanted.hex()[:12]}… cannot be kept in {cache}: {error}",
            hint="make room, or keep heads in a folder that can be written",
        ) from error
    return folder


def _fetch(place: Place, wanted: bytes, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    # Of one that was killed, or damaged since.
    for old in (part, folder):
        if old.exists():
            shutil.rmtree(old)
    part.mkdir(parents=True)
    try:
        data = _read_manifest(place, wanted)
        manifest = decode(data)
        size = sum(file.size for file in manifest.files)
        if size > LIMIT:
            raise HeadError(f"it has {size} bytes, more than {LIMIT}: the head in {place.url}")
        for file in manifest.files:
            with (part / file.name).open("xb") as to:
                place.copy(file, to)
        (part / MANIFEST).write_bytes(data)
        for path in (*part.iterdir(), part):
            sync(path)
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _forget_old(cache: Path, newest: Path) -> None:
    heads = [path for path in cache.iterdir() if not path.name.startswith(".") and path.is_dir()]
    heads.sort(key=lambda path: path.stat().st_mtime_ns)
    for old in heads[:-KEPT]:
        if old != newest:
            shutil.rmtree(old, ignore_errors=True)


def fetch_manifest(url: str, wanted: bytes) -> Manifest:
    """The manifest of a head, without its files.

    Raises:
        FetchError: the place cannot be reached or has no such head.
        HeadError: what lies there is another one.
        UsageError: heads are not read from such a URL, or nothing here can.
    """
    return decode(_read_manifest(Place(f"{url.rstrip('/')}/{wanted.hex()}"), wanted))


def _read_manifest(place: Place, wanted: bytes) -> bytes:
    data = place.read(MANIFEST, MAX_MANIFEST)
    if digest(data) != wanted:
        raise HeadError(
            f"the manifest has the digest {digest(data).hex()[:12]}…, not that of its folder {place.url}",
            hint="publish the head again",
        )
    return data


def _is_whole(folder: Path, wanted: bytes) -> bool:
    if not folder.is_dir():
        return False
    try:
        read_head(folder, wanted)
    except HeadError:
        return False
    return True
