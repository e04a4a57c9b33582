"""Fetching heads from wherever they lie into a folder of this machine.

A head is looked for at ``<URL>/<digest in hex>/``. Its manifest must have that digest, and every other file the size
and SHA-256 that the manifest says: neither the place nor the way there needs to be trusted. It appears in the cache
whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.heads.manifest import MANIFEST, MAX_MANIFEST, HeadError, decode, digest, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flexspec_mq.heads.manifest import HeadFile, Manifest

LIMIT: Final = 64 << 30
"""Bytes of all files of a head."""
KEPT: Final = 32
"""Heads in the cache; the one that was asked for longest ago goes first."""
_PIECE: Final = 1 << 20
_SILENCE: Final = 30.0
"""Seconds without a byte after which a server counts as gone."""


class FetchError(ModelError):
    """A head cannot be had now. Nothing says that it is bad: another try may succeed."""


class HeadFetcher:
    """Fetches heads by their digests.

    Args:
        url: below which heads lie: a folder, ``file://``, ``http(s)://``, or any other that fsspec knows here.
        cache: folder for them; programs may share it.
        limit: most bytes of one head.
    """

    def __init__(self, url: str, cache: Path, *, limit: int = LIMIT) -> None:
        self._url = url.rstrip("/")
        self._cache = cache
        self._limit = limit

    def fetch(self, wanted: bytes) -> Path:
        """The folder of a head, all its files as its manifest says.

        Args:
            wanted: digest of its manifest, 32 bytes.

        Raises:
            FetchError: its place cannot be reached or has no such head, or the way there broke.
            HeadError: what lies there is another one, too large, or not what its manifest says.
            UsageError: nothing here can read such a URL.
        """
        folder = self._cache / wanted.hex()
        try:
            with _alone(self._cache / f".{wanted.hex()}.lock"):
                if not _is_whole(folder, wanted):
                    self._fetch(wanted, folder)
                os.utime(folder)
            self._forget_old(folder)
        except OSError as error:
            raise FetchError(
                f"the head {wanted.hex()[:12]}… cannot be kept in {self._cache}: {error}",
                hint="make room, or keep heads in a folder that can be written",
            ) from error
        return folder

    def _fetch(self, wanted: bytes, folder: Path) -> None:
        part = folder.with_name(f".{folder.name}.part")
        # Of one that was killed, or damaged since.
        for old in (part, folder):
            if old.exists():
                shutil.rmtree(old)
        part.mkdir(parents=True)
        try:
            files = _Place(f"{self._url}/{wanted.hex()}")
            data = files.manifest(wanted)
            manifest = decode(data)
            size = sum(file.size for file in manifest.files)
            if size > self._limit:
                raise HeadError(f"it has {size} bytes, more than {self._limit}: the head in {files.url}")
            for file in manifest.files:
                with (part / file.name).open("xb") as to:
                    files.copy(file, to)
                    _sync(to)
            with (part / MANIFEST).open("xb") as to:
                to.write(data)
                _sync(to)
            _sync_folder(part)
            part.rename(folder)
            _sync_folder(self._cache)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _forget_old(self, newest: Path) -> None:
        heads = [path for path in self._cache.iterdir() if not path.name.startswith(".") and path.is_dir()]
        heads.sort(key=lambda path: path.stat().st_mtime_ns)
        for old in heads[:-KEPT]:
            if old != newest:
                shutil.rmtree(old, ignore_errors=True)


def fetch_manifest(url: str, wanted: bytes) -> Manifest:
    """The manifest of a head, without its files.

    Args:
        url: below which heads lie, as for `HeadFetcher`.
        wanted: its digest, 32 bytes.

    Raises:
        FetchError: the place cannot be reached or has no such head.
        HeadError: what lies there is another one.
        UsageError: nothing here can read such a URL.
    """
    return decode(_Place(f"{url.rstrip('/')}/{wanted.hex()}").manifest(wanted))


class _Place:
    """The folder of one head, wherever it is."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise UsageError(
                "heads are fetched with fsspec", hint=f"install it, {how_to_install('heads')}"
            ) from error
        self.url = url
        self._options: dict[str, Any] = {}
        if url.startswith(("http://", "https://")):
            import aiohttp

            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
            self._options = {"client_kwargs": {"timeout": timeout}, "block_size": 0}
        try:
            self._files, self._path = fsspec.core.url_to_fs(url, **self._options)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"heads at {url} cannot be fetched here: {error}",
                hint="give a folder or an http(s) URL, or install what fsspec asks for",
            ) from error

    def read(self, name: str, most: int) -> bytes:
        """A small file.

        Raises:
            HeadError: it has more than `most` bytes.
            FetchError: it cannot be had.
        """
        data = b"".join(self._pieces(name, most))
        if len(data) > most:
            raise HeadError(f"{name} has more than {most} bytes, in {self.url}")
        return data

    def manifest(self, wanted: bytes) -> bytes:
        """The head's manifest, which has this digest.

        Raises:
            HeadError: it has another one, or is too long.
            FetchError: it cannot be had.
        """
        data = self.read(MANIFEST, MAX_MANIFEST)
        if digest(data) != wanted:
            raise HeadError(
                f"the manifest has the digest {digest(data).hex()[:12]}…, not that of its folder {self.url}",
                hint="publish the head again",
            )
        return data

    def copy(self, file: HeadFile, to: BinaryIO) -> None:
        """Write a file to `to`, as far as it is the one that the manifest lists.

        Raises:
            HeadError: it is another.
            FetchError: it cannot be had, or ends too early.
        """
        hashed, size = hashlib.sha256(), 0
        for piece in self._pieces(file.name, file.size):
            hashed.update(piece)
            size += len(piece)
            if size <= file.size:
                to.write(piece)
        if size < file.size:
            raise FetchError(
                f"{file.name} ended after {size} of {file.size} bytes, in {self.url}",
                hint="if it stays so, publish the head again",
            )
        if size > file.size or hashed.hexdigest() != file.sha256:
            raise HeadError(
                f"{file.name} is not the file that the manifest lists, in {self.url}",
                hint="publish the head again",
            )

    def _pieces(self, name: str, most: int) -> Iterator[bytes]:
        """The bytes of a file, `most` and one more at most."""
        left = most + 1
        try:
            with self._files.open(f"{self._path}/{name}", "rb", **self._open_options) as file:
                while left and (piece := file.read(min(left, _PIECE))):
                    left -= len(piece)
                    yield piece
        # Each file system has errors of its own: aiohttp's, botocore's, …
        except Exception as error:
            if _is_absent(error):
                raise FetchError(
                    f"there is no {name} in {self.url}", hint="publish the head there"
                ) from error
            raise FetchError(
                f"{name} cannot be fetched: {error.__cause__ or error!r}, from {self.url}"
            ) from error

    @property
    def _open_options(self) -> dict[str, Any]:
        return {"block_size": 0} if self._options else {}


def _is_absent(error: Exception) -> bool:
    """Fsspec says the same of a server that has no such file and of one that does not answer."""
    why = error.__cause__
    return isinstance(error, FileNotFoundError) and (
        why is None or isinstance(why, FileNotFoundError) or getattr(why, "status", 0) == HTTPStatus.NOT_FOUND
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for whoever fetches the same head, in this program or another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path, wanted: bytes) -> bool:
    if not folder.is_dir():
        return False
    try:
        read_head(folder, wanted)
    except HeadError:
        return False
    return True


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
