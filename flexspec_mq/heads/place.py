"""Where a head lies: a folder at a URL, read and written by fsspec.

fsspec knows some forty protocols, some of which run what they read, and chains of them. Heads need four, so no URL is
given to fsspec to take apart.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, Final

from flexspec_mq import waiting
from flexspec_mq.errors import ModelError, UsageError, how_to_install
from flexspec_mq.heads.manifest import MANIFEST, HeadError, HeadFile

_PIECE: Final = 1 << 20
_ON_A_HOST: Final = re.compile(
    r"(?P<user>[^@/\\?#\s]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]+)?(?P<path>/[^\\?#\x00-\x1f\x7f]*)?"
)
"""Rest behind ``https://``, in the one way in which all who read it agree on the host."""


class FetchError(ModelError):
    """A head cannot be had now. Nothing says that it is bad: another try may succeed."""


def scheme_of(url: str) -> str:
    """How what lies at a URL is read: ``https``, ``http``, ``s3``, or ``file``, which a path without a scheme is too.

    Raises:
        UsageError: heads are not read from such a URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "file", url
    match = None if scheme == "file" else _ON_A_HOST.fullmatch(rest)
    if "::" in scheme + (rest if match is None else match["path"] or ""):
        raise _refused(url, "it is a chain of URLs")
    if scheme not in ("https", "http", "s3", "file"):
        raise _refused(url, f"its scheme is {scheme}")
    if scheme != "file" and match is None:
        raise _refused(url, "behind its scheme there is more than a host and a path")
    if separator and scheme == "file" and not rest.startswith("/"):
        raise _refused(url, "a file URL begins with file:///")
    return scheme


def from_catalogue(url: str) -> str:
    """The URL that a family's catalogue has, if it is one to which programs go that nobody has told to.

    Raises:
        UsageError: only the operator of this program can send it there, or heads are not read from such a URL.
    """
    scheme = scheme_of(url)
    path = url.removeprefix("file://")
    if scheme == "http":
        raise UsageError(
            f"the catalogue says that heads are at {url}, and nobody here has named that host",
            hint="http is not protected on its way: publish an https URL with `flexspec head renew --heads`, or name "
            "this one with --heads of the worker, or --upload of `flexspec head publish`",
        )
    if scheme == "file" and not path.startswith("/"):
        raise _refused(url, "a catalogue names folders from the root on")
    if ".." in path.split("/"):
        raise _refused(url, "it has a .. in it")
    if scheme != "file" and "@" in path.split("/")[2]:
        raise _refused(url, "a catalogue can be read by all, and no place for a password")
    return url


def _refused(url: str, why: str) -> UsageError:
    return UsageError(
        f"heads are not read from {url}: {why}", hint="give an https URL, an s3 bucket or a folder"
    )


class Place:
    """The folder of one head, wherever it is.

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
        scheme = scheme_of(url)
        if scheme in ("http", "https"):
            import aiohttp

            timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=waiting.KEEPALIVE, sock_read=waiting.KEEPALIVE
            )
            client = {"timeout": timeout, "raise_for_status": _refuse_redirect}
            self._options = {"client_kwargs": client, "block_size": 0, "allow_redirects": False}
        try:
            self._files = fsspec.filesystem(scheme, **self._options)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{url} is no place for heads that can be reached from here: {error}",
                hint="give a folder or an https URL, or install what fsspec asks for",
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
            self._files.makedirs(self.url, exist_ok=True)
            for name in names:
                self._files.put_file(str(folder / name), f"{self.url}/{name}")
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
            with self._files.open(f"{self.url}/{name}", "rb", **self._open_options) as file:
                while left and (piece := file.read(min(left, _PIECE))):
                    left -= len(piece)
                    yield piece
        # Each file system has errors of its own: aiohttp's, botocore's, …
        except Exception as error:
            if isinstance(error.__cause__ or error, FetchError):
                raise (error.__cause__ or error) from None
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


async def _refuse_redirect(response: Any) -> None:
    """Go nowhere but where the URL says: another host may be one inside of the worker's network."""
    if HTTPStatus.MULTIPLE_CHOICES <= response.status < HTTPStatus.BAD_REQUEST:
        response.close()
        raise FetchError(
            f"{response.url} is not there: its server redirects to {response.headers.get('Location')}",
            hint="redirects are not followed: publish the URL at which heads lie, `flexspec head renew --heads`",
        )


def _is_absent(error: Exception) -> bool:
    """Fsspec says the same of a server that has no such file and of one that does not answer."""
    why = error.__cause__
    return isinstance(error, FileNotFoundError) and (
        why is None or isinstance(why, FileNotFoundError) or getattr(why, "status", 0) == HTTPStatus.NOT_FOUND
    )
