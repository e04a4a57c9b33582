"""Fetching a file of a model hub, of a mirror or of a folder into the cache of models.

It appears there once its SHA-256 is the pinned one: neither the place nor the way there needs to be trusted, and no
later start reads it again for that. Until then what has come of it lies beside, and the next try goes on behind that,
in a later program too, which `hf_hub_download` does not do; nor does it take mirrors without the hub's own headers.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from msgspec.structs import replace

import flexspec_mq
from flexspec_mq import waiting
from flexspec_mq.daemon.files import alone, sync
from flexspec_mq.daemon.retry import Backoff
from flexspec_mq.errors import ModelError
from flexspec_mq.models.cache import Progress, models_cache
from flexspec_mq.models.pairs.table import HubFile, in_words
from flexspec_mq.settings.values import is_loopback

if TYPE_CHECKING:
    from httpx2 import Response

_SPARE: Final = 100_000_000
"""Bytes that stay free on the disk."""
_AGAIN: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, 500, 502, 503, 504}
"""Answers that may be others soon."""
_MORE_ROOM: Final = "free some space, or set XDG_CACHE_HOME to a folder on another disk"
_ELSEWHERE: Final = "--pair-source names another hub, or a folder with the file"


def here(file: HubFile) -> Path | None:
    """Where a file lies in the cache, whose hash was checked when it came; None where it does not."""
    path = _place(file)
    return path if file.sha256 and path.is_file() and path.stat().st_size == file.size else None


def fetch(file: HubFile, source: str | None, say: Progress) -> Path:
    """The path of a pinned file in the cache, fetched if it is not there.

    Args:
        file: the file.
        source: URL of a mirror, or a folder; None is HF_ENDPOINT, or the hub.
        say: told how far it is.

    Raises:
        ModelError: it is not there, another file is, the way there stays broken, or the disk is full.
    """
    if path := here(file):
        return path
    place = _place(file)
    try:
        with alone(
            place.with_name(".lock"), lambda: say(f"waiting for another process that fetches {file.name}")
        ):
            return here(file) or _fetch(file, _origin(file, source), place, say)
    except OSError as error:
        raise ModelError(
            f"cannot write {file.name} to {place.parent}: {error.strerror or error}",
            hint=f"{_MORE_ROOM}; the same command goes on then",
        ) from error


def pinned(file: HubFile, source: str | None, say: Progress) -> HubFile:
    """A file with the size, hash and commit that its source tells, if nobody has pinned it.

    Raises:
        ModelError: it is not there, or the source does not tell.
    """
    if file.sha256:
        return file
    origin = _origin(file, source)
    if isinstance(origin, Path):
        say(f"reading {file.name}")
        return replace(file, size=origin.stat().st_size, sha256=_digest(origin))
    from httpx2 import HTTPError
    from huggingface_hub import get_hf_file_metadata

    say(f"asking for {origin}")
    try:
        told = get_hf_file_metadata(origin, token=False, timeout=waiting.CONNECT)
    except (HTTPError, OSError) as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"{origin} cannot be had: {why}", hint=_ELSEWHERE) from error
    if not (told.size and re.fullmatch("[0-9a-f]{64}", told.etag or "")):
        raise ModelError(f"{origin} comes without its SHA-256, so it cannot be pinned", hint=_ELSEWHERE)
    return replace(file, size=told.size, sha256=told.etag, revision=told.commit_hash or file.revision)


def _place(file: HubFile) -> Path:
    return models_cache() / f"sha256-{file.sha256}" / file.name


def _origin(file: HubFile, source: str | None) -> Path | str:
    if source is None or "://" in source:
        from huggingface_hub import hf_hub_url

        url: str = hf_hub_url(file.repo, file.name, revision=file.revision, endpoint=source)
        return url
    path = Path(source).expanduser() / file.name
    if not path.is_file():
        raise ModelError(f"there is no {path}", hint="--pair-source names the folder that holds it")
    return path


def _fetch(file: HubFile, origin: Path | str, place: Path, say: Progress) -> Path:
    from huggingface_hub import try_to_load_from_cache

    # Other programs may have fetched it into the cache that they share.
    cached = try_to_load_from_cache(file.repo, file.name, revision=file.revision)
    if isinstance(cached, str) and Path(cached).stat().st_size == file.size:
        say(f"checking {cached}")
        if _digest(Path(cached)) == file.sha256:
            place.unlink(missing_ok=True)
            place.symlink_to(Path(cached).resolve())
            return place
    part = place.with_name(f".{file.name}.part")
    come = part.stat().st_size if part.exists() else 0
    if (free := shutil.disk_usage(place.parent).free) < file.size - come + _SPARE:
        what = f"{file.name} needs {in_words(file.size - come)}, and {place.parent} has room for {in_words(free)}"
        raise ModelError(what, hint=_MORE_ROOM)
    for _ in range(2 if come else 1):  # what was kept may be damaged
        if isinstance(origin, Path):
            say(f"copying {origin}")
            shutil.copyfile(origin, part)
        else:
            _download(file, origin, part, say)
        say(f"checking {file.name}")
        found = _digest(part)
        if found == file.sha256:
            sync(part)
            part.replace(place)
            sync(place.parent)
            return place
        part.unlink()
    raise ModelError(
        f"{origin} is another file than the one that was measured: its SHA-256 is {found}, and {file.sha256} is pinned",
        hint=f"{_ELSEWHERE}; `flexspec pair` measures files of your own, which --target and --draft name",
    )


def _download(file: HubFile, url: str, part: Path, say: Progress) -> None:
    """Fetch what lacks behind what has come, by as many requests as it takes.

    Raises:
        ModelError: nothing more comes, or not this file.
        OSError: it cannot be written.
    """
    import httpx2
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise ModelError(f"{file.name} is not here, and HF_HUB_OFFLINE is set", hint=_ELSEWHERE)

    def check(request: httpx2.Request) -> None:
        to = request.url
        if to.scheme != "https" and not (url.startswith("http://") and is_loopback(to.host)):
            raise ModelError(
                f"{url} leads to {to.scheme}://{to.host}, which is not protected", hint=_ELSEWHERE
            )

    client = httpx2.Client(
        follow_redirects=True,
        timeout=httpx2.Timeout(waiting.KEEPALIVE, connect=waiting.CONNECT),
        headers={"User-Agent": f"flexspec-mq/{flexspec_mq.__version__}", "Accept-Encoding": "identity"},
        event_hooks={"request": [check]},
    )
    attempt, last, backoff = 0, time.monotonic(), Backoff()
    with part.open("ab") as out, client:
        while (come := out.tell()) < file.size:
            try:
                with client.stream("GET", url, headers={"Range": f"bytes={come}-"} if come else {}) as answer:
                    why = _take(answer, file, out, say)
            except httpx2.RequestError as error:
                why = str(error) or type(error).__name__
            if (kept := out.tell()) == file.size:
                break
            attempt, last = (0, time.monotonic()) if kept > come else (attempt + 1, last)
            delay = backoff.delay(attempt + 1)
            # A place from which nothing ever came may be a wrong one.
            if time.monotonic() + delay > last + (waiting.PATIENCE if kept else waiting.UNLINKED):
                goes_on = (
                    f"the same command goes on behind the {in_words(kept)} that have come; " if kept else ""
                )
                raise ModelError(f"{url} cannot be fetched: {why}", hint=f"{goes_on}{_ELSEWHERE}")
            say(f"fetching {file.name}: {why}; again in {delay:.1f} s")
            time.sleep(delay)


def _take(answer: Response, file: HubFile, out: IO[bytes], say: Progress) -> str:
    """Write what an answer brings; why that may not be all, so that another try may bring more.

    Raises:
        ModelError: there is no such file, or it is another one.
        OSError: it cannot be written.
    """
    url = (*answer.history, answer)[0].request.url
    status = f"it answers {answer.status_code} {answer.reason_phrase}"
    if answer.status_code in _AGAIN:
        return status
    if not answer.is_success:
        raise ModelError(f"{url} cannot be fetched: {status}", hint=_ELSEWHERE)
    if answer.status_code != HTTPStatus.PARTIAL_CONTENT:  # it knows no parts
        out.seek(0)
        out.truncate()
    come, told, share = out.tell(), 0.0, -1
    ends = come + int(answer.headers.get("Content-Length", file.size - come))
    for piece in answer.iter_bytes():
        come += len(piece)
        if max(come, ends) > file.size or ends < file.size:
            raise ModelError(
                f"{url} has {max(come, ends):,} bytes or more, and the file that was measured {file.size:,}",
                hint=f"it is another file; {_ELSEWHERE}",
            )
        out.write(piece)
        if share != (share := 100 * come // file.size) and time.monotonic() >= told + waiting.ANSWER:
            told = time.monotonic()
            say(f"fetching {file.name}, {in_words(file.size)}: {share} %")
    return "it ended early"


def _digest(path: Path) -> str:
    with path.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()
