"""Where a head lies: a folder at a URL, read and written by fsspec."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.heads.manifest import MANIFEST, HeadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from flexspec_mq.heads.manifest import HeadFile

_PIECE: Final = 1 << 20
_SILENCE: Final = 30.0
"""Seconds without a byte after which a server counts as gone."""


class FetchError(ModelError):
    """A head cannot be had now. Nothing says that it is bad: another try may succeed."""


class Place:
    """The folder of one head, wherever it is.

    Args:
        url: of it: a folder, ``file://``, ``http(s)://``, or any other that fsspec knows here.

    Raises:
        UsageError: nothing here can use such a URL.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError as error:
            raise UsageError(
                "heads are fetched and copied with fsspec", hint=f"install it, {how_to_install('heads')}"
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
                f"{url} is no place for heads that can be reached from here: {error}",
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

    def copy(self, file: HeadFile, to: BinaryIO | None = None) -> None:
        """See that a file is the one that the manifest lists, and write it to `to` as far as it is.

        Raises:
            HeadError: it is another.
            FetchError: it cannot be had, or ends too early.
        """
        hashed, size = hashlib.sha256(), 0
        for piece in self._pieces(file.name, file.size):
            hashed.update(piece)
            size += len(piece)
            if to is not None and size <= file.size:
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

    def put(self, folder: Path, names: Iterable[str]) -> None:
        """Copy files of a folder here, in this order.

        Raises:
            UsageError: they cannot be written.
        """
        try:
            self._files.makedirs(self._path, exist_ok=True)
            for name in names:
                self._files.put_file(str(folder / name), f"{self._path}/{name}")
        except (OSError, NotImplementedError, ValueError) as error:
            raise UsageError(
                f"the head cannot be written to {self.url}: {error or type(error).__name__}",
                hint=f"copy the files of {folder} to {self.url} yourself, {MANIFEST} last; "
                "then give this command again",
            ) from error

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
