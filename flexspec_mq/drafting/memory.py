"""Remembered answers: what a version has written here lately, in which the lookups of its next texts find repetitions.

There is a file for each version and user, readable by its owner alone. It holds token ids, and so what users wrote, as
far as answers repeat it. No message carries it. Tokens drafted from it go to the worker as any draft does, so it serves
texts of the same version, behind the same broker and of the same user only.
"""

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import msgspec

from flexspec_mq.daemon.files import alone, whole
from flexspec_mq.drafting.prompt_lookup import Bins, Lookup, Support

ANSWERS = 40
TOKENS = 16_384
"""Tokens of all answers of a file; of a longer answer the beginning is kept."""
FILES = 64
DAYS = 30
"""Days after which a version that nobody asked is forgotten."""
LEAD = 4
"""Tokens of a prompt's end, the template's in a chat, that stand before an answer: so its beginning is found."""
_LOADED = 4
"""Versions and users of which a node has the answers in memory: some 5 MB each at most."""
_DIGEST = hashlib.sha256().digest_size
_SUFFIX, _LOCK = ".answers", ".lock"
_log = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """Contents of a file, behind their SHA-256.

    Attributes:
        version: name of the target version.
        digest: digest of its head, in hex; empty where no catalogue tells it.
        place: broker and family.
        answers: token ids, the oldest first.
        bins: a support, a length, and how often the target took what was found, of how many times.
        tokenizer: name of the target's, where a worker gave it; else empty, or of no file in the cache.
    """

    version: str
    digest: str
    place: str
    answers: list[list[int]] = []
    bins: list[tuple[Support, int, int, int]] = []
    tokenizer: str = ""


class Answers:
    """Remembered answers of one version and user. But for its making it belongs to the drafter's thread.

    Args:
        path: file that keeps them.
        new: contents of a file without answers.
        wanted: whether its version is one of the family's still.

    Attributes:
        lookup: where to find what.
        bins: how often the target took what was found.
    """

    def __init__(self, path: Path, new: Kept, wanted: Callable[[Kept], bool]) -> None:
        self._path = path
        self._new = new
        self._wanted = wanted
        self._stamp: tuple[int, ...] | None = ()  # nothing was read yet
        self._answers: deque[list[int]] = deque()
        self._told = False
        self.lookup = Lookup(newest=False)
        self.bins: Bins = {}

    def recall(self) -> Self:
        """Read the file if it is new: another program may have added answers, or forgotten all."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp, kept = stamp, read(self._path) or self._new
            self.bins = {(support, bits): (right, all_) for support, bits, right, all_ in kept.bins}
            self._answers = deque(kept.answers)
            self._index()
        return self

    def add(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Remember an answer; where that fails, it is told and nothing else happens."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with alone(self._path.parent / _LOCK):
                self.recall()
                began = self._stamp is None
                self._take([*prompt[-LEAD:], *answer][:TOKENS])
                self._write()
                self._stamp = _stamp(self._path)
                if not self._wanted(self._new):  # asked last: it may have been retired meanwhile
                    self._path.unlink(missing_ok=True)
            if began:
                prune(self._path.parent)
        except OSError as error:
            level = logging.DEBUG if self._told else logging.WARNING
            _log.log(level, "answers are not kept: %s cannot be written: %s", self._path, error)
            self._told = True

    def _take(self, answer: list[int]) -> None:
        self._answers.append(answer)
        while len(self._answers) > ANSWERS or sum(map(len, self._answers)) > TOKENS:
            self._answers.popleft()
        self._index()

    def _index(self) -> None:
        """Build it anew, which takes some ms: texts that are under way go on with what they found."""
        self.lookup = Lookup(newest=False)
        for answer in self._answers:
            self.lookup.add(answer)

    def _write(self) -> None:
        bins = [(*key, *counts) for key, counts in self.bins.items()]
        body = msgspec.msgpack.encode(
            msgspec.structs.replace(self._new, answers=list(self._answers), bins=bins)
        )
        with whole(self._path) as part:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(body).digest() + body)


class AnswerMemory:
    """Remembered answers of a node.

    Args:
        folder: folder that keeps them.
        place: broker and family: names of versions mean something there only.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self._folder = folder
        self._place = place
        self._known: dict[Path, Answers] = {}
        self._versions: Collection[tuple[str, str]] | None = None
        prune(folder)

    def of(self, version: str, digest: str, user: bytes, fingerprint: bytes, tokenizer: str = "") -> Answers:
        """Answers of a version of which this user has asked it here.

        Args:
            version: name of the target version.
            digest: digest of its head in hex, where it is known.
            user: name that the API's client gives a user; empty is whoever has the node's key.
            fingerprint: fingerprint of the text's tokenizer, by which token ids mean something.
            tokenizer: name of it, where a worker gave it.
        """
        new = Kept(version, digest, self._place, tokenizer=tokenizer)
        name = hashlib.sha256(repr((digest, self._place, fingerprint, user)).encode()).hexdigest()[:16]
        path = self._folder / f"{version}.{name}{_SUFFIX}"
        answers = self._known.pop(path) if path in self._known else Answers(path, new, self._keeps)
        self._known[path] = answers
        if len(self._known) > _LOADED:
            del self._known[next(iter(self._known))]
        return answers

    def keep(self, versions: Collection[tuple[str, str]]) -> None:
        """Forget all of the family's versions but these, each a name and a digest, and what is yet to be written."""
        self._versions = versions
        gone = [
            p
            for p, kept in listed(self._folder)
            if kept and kept.place == self._place and not self._keeps(kept)
        ]
        _remove(self._folder, gone)

    def _keeps(self, kept: Kept) -> bool:
        return self._versions is None or (kept.version, kept.digest) in self._versions


def listed(folder: Path) -> list[tuple[Path, Kept | None]]:
    """All files and what they hold, None of a damaged one."""
    return [(path, read(path)) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


def forget(folder: Path, version: str | None) -> int:
    """Forget the answers of a version, or of all; how many files that were. A node that runs notices it."""
    found = [path for path in folder.glob(f"*{_SUFFIX}") if version in (None, version_of(path))]
    _remove(folder, found)
    return sum(not path.exists() for path in found)


def _remove(folder: Path, paths: Sequence[Path]) -> None:
    """Remove files, and what is left of one that a program was writing when it was killed."""
    try:
        with alone(folder / _LOCK) if folder.exists() else nullcontext():
            for path in (*paths, *folder.glob(f".*{_SUFFIX}.*.part")):
                path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("answers that are to be forgotten stay in %s: %s", folder, error)


def version_of(path: Path) -> str:
    """The version of a file, by its name."""
    return path.name.removesuffix(_SUFFIX).rpartition(".")[0]


def read(path: Path) -> Kept | None:
    """Contents of a file; None if there is none, or, which is told, it is damaged."""
    why: object = "its digest is another"
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[_DIGEST:]).digest() == data[:_DIGEST]:
            return msgspec.msgpack.decode(data[_DIGEST:], type=Kept)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # msgspec's are ValueErrors
        why = error
    _log.warning("remembered answers in %s cannot be read, and begin anew: %s", path, why)
    return None


def prune(folder: Path) -> None:
    """Remove files that have not been written for `DAYS`, and the oldest beyond `FILES`."""
    stamps = {path: stamp[1] for path in folder.glob(f"*{_SUFFIX}") if (stamp := _stamp(path))}
    oldest = time.time_ns() - DAYS * 86_400 * 10**9
    newest = sorted(stamps, key=stamps.__getitem__, reverse=True)
    _remove(folder, [path for place, path in enumerate(newest) if place >= FILES or stamps[path] < oldest])


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, time in ns and size of a file: a file that was written again has another. None without one."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
