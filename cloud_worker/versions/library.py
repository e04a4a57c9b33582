"""Which versions a worker has, and what to do so that they are those of the catalogue. Without I/O or clock.

The driver asks `next_step`, does it, and tells what came of it; never two things at a time. A name never passes from
one head to another while texts are written with the first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf

from cloud_worker.engine.interface import Exactness
from flexspec_mq import waiting
from flexspec_mq.daemon.printable import printable
from schemas.catalogue import CatalogueVersion, VersionState
from schemas.status import DIGEST, MAX_MORE, MAX_WHY, VersionStatus

NO_CATALOGUE = "no catalogue of the family has come yet"
_ORDER = (VersionState.STABLE, VersionState.CANARY, VersionState.DRAINING)


class Stage(StrEnum):
    """Where a version stands at this worker; the words of its status."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class VersionEntry:
    """State of a version.

    Attributes:
        digest: Digest of its head's manifest; empty for the worker's own version where no catalogue names it.
        why: Reason why it is refused, or not here yet.
        retry: when it may be loaded, and how long to wait after the next failure.
    """

    name: str
    digest: bytes
    stage: Stage
    exactness: Exactness = "unknown"
    why: str = ""
    retry: tuple[float, float] = (-inf, waiting.RETRY_AWAITED)


@dataclass(frozen=True, slots=True)
class LoadHead:
    """Fetch a head, hold it, and check it; then say `Library.loaded`, `refused` or `failed`."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class OpenVersion:
    """Take new sessions of a version whose head is held, from here on and from others."""

    name: str


@dataclass(frozen=True, slots=True)
class RetireVersion:
    """Take no new sessions of a version."""

    name: str


@dataclass(frozen=True, slots=True)
class DropVersion:
    """Leave the share of a version and let go of its head: no session of it is left."""

    name: str


Step = LoadHead | OpenVersion | RetireVersion | DropVersion


class Library:
    """The versions of a worker. It takes sessions of none before a catalogue is here: a name says nothing of a base.

    Args:
        own: version that the worker serves where no catalogue says what it is, and which is the base.
        exactness: Exactness of the base.
        base: id of the base, as catalogues name bases that are not the family's.
    """

    def __init__(self, own: str, exactness: Exactness, base: bytes = b"") -> None:
        self._wanted: dict[str, CatalogueVersion] = {}
        self._named: set[str] = set()
        self._own = own
        self._entries = {own: VersionEntry(own, b"", Stage.LOADING, why=NO_CATALOGUE)}
        self._opened: set[str] = set()
        self._exactness = exactness
        self._id = base
        self._base = b""  # what catalogues say of the base of our versions; empty is the family's

    @property
    def entries(self) -> list[VersionEntry]:
        """All versions."""
        return list(self._entries.values())

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Statuses of the versions, for the worker's status."""
        said, left = list[VersionStatus](), MAX_MORE
        for one in self.entries:
            reason = _printable(one.why)
            more = reason[MAX_WHY:][:left]
            left -= len(more)
            known = one.stage in _NOT_HELD or one.exactness == self._exactness
            said.append(
                VersionStatus(
                    name=one.name,
                    digest=one.digest[:DIGEST].hex(),
                    state=one.stage.value,
                    exactness="" if known else one.exactness,
                    why=reason[:MAX_WHY],
                    more=more,
                )
            )
        return tuple(said)

    def follow(self, versions: Iterable[CatalogueVersion]) -> None:
        """Take up a catalogue. A version that it does not name is retired, but for our own if none has named it.

        Where one names it, its manifest must be one of the base, or the version is refused like any other.
        Once a catalogue has named this worker's base as another one than the family's, versions of the family's base
        are other workers', as those of any third base are from the start; nothing is said of them. Until then the
        worker's base is taken for the family's.
        """
        versions = list(versions)
        if self._id and any(one.base == self._id for one in versions):
            self._base = self._id
        self._named = {one.name for one in versions}
        self._wanted = {
            one.name: one
            for one in versions
            if one.base == self._base and one.state is not VersionState.RETIRED
        }
        own = self._entries.get(self._own)
        if own is not None and not own.digest and self._own not in self._opened:
            if self._own in self._named:
                del self._entries[self._own]
            else:
                self._entries[self._own] = VersionEntry(self._own, b"", Stage.READY, self._exactness)
        for name, one in self._wanted.items():
            known = self._entries.get(name)
            if known is None or (known.stage in _NOT_HELD and known.digest != one.digest):
                self._entries[name] = VersionEntry(name, one.digest, Stage.LOADING)
        for name, known in list(self._entries.items()):
            if known.stage in _NOT_HELD and name not in self._wanted:
                del self._entries[name]

    def next_step(
        self, sessions_of: Callable[[str], int], now: float, *, loading: bool = False
    ) -> Step | None:
        """Next thing to do; None if there is nothing.

        A step that it returns counts as begun: `OpenVersion`, `RetireVersion` and `DropVersion` as done.

        Args:
            sessions_of: how many sessions a version has here.
            now: seconds.
            loading: a `LoadHead` is under way, so no other is wanted.
        """
        for name, known in self._entries.items():
            wanted = self._is_wanted(known)
            if known.stage is Stage.READY and not wanted:
                self._set(name, stage=Stage.DRAINING)
                if name in self._opened:
                    return RetireVersion(name)
                self._dropped(known)
                return DropVersion(name)
            if known.stage is Stage.DRAINING and wanted:
                self._set(name, stage=Stage.READY)
                return OpenVersion(name)
            if known.stage is Stage.READY and name not in self._opened:
                self._opened.add(name)
                return OpenVersion(name)
            if known.stage is Stage.DRAINING and not sessions_of(name):
                self._dropped(known)
                return DropVersion(name)
        return None if loading else self._next_load(now)

    def next_retry(self) -> float | None:
        """When a head is to be asked for again; None if none is."""
        return min((one.retry[0] for one in self._loading()), default=None)

    def loaded(self, load: LoadHead, exactness: Exactness) -> bool:
        """A head is held and good. False if its version is not wanted any more: then let go of it."""
        if not self._is_current(load):
            return False
        self._set(load.name, stage=Stage.READY, exactness=exactness, why="")
        return True

    def refused(self, load: LoadHead, why: str) -> None:
        """A head is bad, or not for this worker. It is not looked at again."""
        if self._is_current(load):
            self._set(load.name, stage=Stage.REFUSED, why=why)

    def failed(self, load: LoadHead, why: str, now: float) -> None:
        """A head could not be had, which may pass."""
        if self._is_current(load):
            pause = self._entries[load.name].retry[1]
            self._set(load.name, retry=(now + pause, min(2 * pause, 4 * waiting.RETRY[1])), why=why)

    def _is_wanted(self, known: VersionEntry) -> bool:
        one = self._wanted.get(known.name)
        if not known.digest:
            return known.name not in self._named
        return one is not None and one.digest == known.digest

    def _is_current(self, load: LoadHead) -> bool:
        known = self._entries.get(load.name)
        return known is not None and known in self._loading() and known.digest == load.digest

    def _loading(self) -> list[VersionEntry]:
        return [one for one in self._entries.values() if one.stage is Stage.LOADING and one.digest]

    def _dropped(self, known: VersionEntry) -> None:
        self._opened.discard(known.name)
        del self._entries[known.name]
        wanted = self._wanted.get(known.name)
        if wanted is None:
            return
        self._entries[known.name] = VersionEntry(known.name, wanted.digest, Stage.LOADING)

    def _next_load(self, now: float) -> LoadHead | None:
        due = [one for one in self._loading() if one.retry[0] <= now]
        due.sort(key=lambda one: _ORDER.index(self._wanted[one.name].state))
        return LoadHead(due[0].name, due[0].digest) if due else None

    def _set(self, name: str, **changes: object) -> None:
        self._entries[name] = replace(self._entries[name], **changes)  # type: ignore[arg-type]


_NOT_HELD = (Stage.LOADING, Stage.REFUSED)


def _printable(text: str) -> str:
    """Make it a line of ASCII without control characters, as a status counts bytes and JSON has six for each."""
    return " ".join(printable(text).encode("ascii", "replace").decode("ascii").split())
