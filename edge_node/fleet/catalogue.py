"""The catalogue of the family that an edge node follows, kept up over the node's link.

The node gives it what comes on the family's topics. A message that changes something is on the disk before anything
is done by it; one that does not hold is counted, told and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from flexspec_mq import waiting
from flexspec_mq.catalogue.driver import Driver, Outcome
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import Reason, RecordError, SignedRefused
from flexspec_mq.catalogue.signing import read_public
from flexspec_mq.catalogue.store import Store
from flexspec_mq.daemon.dated import ExpiryLog
from flexspec_mq.errors import LinkDown, LinkRefused
from flexspec_mq.models.cache import families_folder
from schemas.catalogue import Catalogue, CatalogueVersion, VersionState
from schemas.node import CatalogueChange
from schemas.status import CatalogueStatus

if TYPE_CHECKING:
    from flexspec_mq.catalogue.options import FamilyOptions
    from flexspec_mq.transport.link import Link

_TEXT = 256
MAX_HISTORY = 32
"""Catalogues that are told of."""

_log = logging.getLogger(__name__)


def family_catalogue(settings: FamilyOptions) -> FamilyCatalogue | None:
    """The kept catalogue of the family that the settings name; None if they name none.

    Raises:
        UsageError: the root key is none, or there is no folder for what is kept.
        RecordError: what was kept cannot be used.
    """
    if settings.family is None or settings.root_key is None:
        return None
    root = read_public(settings.root_key)
    return FamilyCatalogue(settings.family, root, Store(families_folder(settings.state_dir), settings.family))


def state_in_words(version: CatalogueVersion) -> str:
    """Where a version stands, and the share of a canary."""
    state = version.state.name.lower()
    return f"{state} {version.share} %" if version.state is VersionState.CANARY else state


class FamilyCatalogue:
    """The catalogue of the node's family.

    Args:
        family: name of the family.
        root: public key that signs its key sets, 32 bytes.
        store: keeps the record.
        clock: seconds since the Unix epoch.

    Attributes:
        family: name of the family.
        refused: messages since the node started, by reason.
        history: catalogues that were taken up since the node started, and the one that it had, the newest first.
        why: reason that keeps the newest message from being taken up; empty while all is well.

    Raises:
        RecordError: what the store holds cannot be used.
    """

    def __init__(
        self, family: str, root: bytes, store: Store, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.family = family
        self.refused: Counter[Reason] = Counter()
        self.history: deque[CatalogueChange] = deque(maxlen=MAX_HISTORY)
        self.why = ""
        self._disk = ""
        self._dates = ExpiryLog()
        self._follower = Follower(family, root, store.load())
        self._driver = Driver(self._follower, store, clock)
        self._clock = clock
        self._settles = waiting.ANSWER
        self._heard = asyncio.Event()  # a catalogue since we run, or that none comes
        self._known = asyncio.Event()  # any catalogue
        self._states: dict[str, str] = {}
        if self._follower.catalogue is not None:
            self._known.set()
            self._remember(self._follower.catalogue)
        self._news = asyncio.Event()
        self._keep: Callable[[set[tuple[str, str]]], None] = lambda _: None

    @property
    def catalogue(self) -> Catalogue | None:
        """The one to act on, also past its expiry; None before the first."""
        return self._follower.catalogue

    @property
    def expired(self) -> bool:
        """Whether it should have been signed anew by now."""
        return self._follower.expired(self._clock())

    @property
    def lapsed(self) -> str:
        """Why no new text goes by the catalogue: its key set has expired; empty while that holds."""
        return self._follower.lapsed(self._clock())

    @property
    def keys_expire(self) -> int:
        """Second since the Unix epoch at which the key set expires; 0 before the first."""
        return 0 if self._follower.keys is None else self._follower.keys.expires

    def status(self) -> CatalogueStatus:
        """As the edge's status tells it."""
        known, alarm = self.catalogue, self._follower.alarm
        return CatalogueStatus(
            family=self.family,
            state="none" if known is None else "expired" if self.expired else "current",
            epoch=0 if known is None else known.epoch,
            expires=0 if known is None else known.epoch + known.lifetime,
            refused=self.refused.total(),
            why=self.why[:_TEXT],
            alarm="" if alarm is None else alarm.detail[:_TEXT],  # two messages had one number, both signed
        )

    def take(self, topic: str, payload: bytes) -> bool:
        """Take a message, which `run` judges; whether it is of the family."""
        return self._driver.take(topic, payload)

    def on_versions(self, keep: Callable[[set[tuple[str, str]]], None]) -> None:
        """Tell name and digest, in hex, of each version that is not retired: now, if known, and at each change."""
        self._keep = keep
        self._tell_versions()

    def _tell_versions(self) -> None:
        if (catalogue := self.catalogue) is not None:
            versions = (known for known in catalogue.versions if known.state is not VersionState.RETIRED)
            self._keep({(version.name, version.digest.hex()) for version in versions})

    async def settled(self) -> None:
        """Wait until what the broker keeps of the family has come, if it keeps anything; not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settles):
                await self._heard.wait()
                await self._known.wait()

    async def news(self) -> None:
        """Wait until the status may be another than when this was last called."""
        await self._news.wait()
        self._news.clear()

    async def run(self, link: Link) -> None:
        """Follow the family until cancelled.

        Raises:
            LinkError: the link failed for good.
        """
        for topic in self._driver.topics:
            await self._subscribe(link, topic)
        self._settles = link.settings.answer_timeout
        timer = asyncio.get_running_loop().call_later(self._settles, self._heard.set)
        was_expired = False
        try:
            while True:
                for topic, outcome in await self._driver.turn():
                    self._note(topic, outcome)
                self._dates.look(self._follower.dated, self._clock())
                if self.expired and not was_expired:
                    _log.warning("the catalogue of %s has expired; what it says goes on", self.family)
                if self.expired != was_expired:
                    was_expired = self.expired
                    self._news.set()
        finally:
            timer.cancel()

    def _remember(self, catalogue: Catalogue) -> None:
        """Note what a catalogue changes."""
        if self.history and self.history[0].epoch == catalogue.epoch:
            return
        before, self._states = (
            self._states,
            {known.name: state_in_words(known) for known in catalogue.versions},
        )
        changes = [
            f"{name}: {before[name]} → {state}" if name in before else f"{name}: {state}"
            for name, state in self._states.items()
            if before.get(name) != state
        ]
        changes += [f"{name}: gone" for name in before if name not in self._states]
        self.history.appendleft(CatalogueChange(epoch=catalogue.epoch, changes=changes))

    async def _subscribe(self, link: Link, topic: str) -> None:
        try:
            await link.subscribe(topic)
        except LinkDown:  # the link remembers it
            return
        except LinkRefused as error:
            self._tell(f"the broker does not let us read {topic}: {error.message}")

    def _note(self, topic: str, outcome: Outcome) -> None:
        if isinstance(outcome, RecordError):
            self._disk = f"{outcome.message}; {outcome.hint}"
            self._tell(self._disk)
            return
        if isinstance(outcome, Accepted):
            self.why = self._disk = ""
            self._news.set()
            self._tell_versions()
            if (catalogue := self.catalogue) is not None:
                self._remember(catalogue)
                _log.info("the catalogue of %s has epoch %d", self.family, catalogue.epoch)
                self._known.set()
                self._heard.set()
        elif isinstance(outcome, SignedRefused):
            self.refused[outcome.reason] += 1
            self._tell(f"{outcome.reason}: {outcome.detail}")
        if topic == self._driver.topics[1] and not self._follower.waiting:
            self._heard.set()

    def _tell(self, why: str) -> None:
        if why != self.why:
            _log.warning("family %s: %s", self.family, why)
        self.why = self._disk or why  # nothing is taken up while the disk is in the way
        self._news.set()
