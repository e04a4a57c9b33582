"""Following a family: from its signed messages to versions that this worker serves.

State to be remembered is on disk before it is acted on, and nothing else is: a worker that is killed at any moment
begins anew with the catalogue that it had, and the heads that are whole in its cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from cloud_worker.versions.library import DropVersion, Library, LoadHead, OpenVersion, RetireVersion, Step
from flexspec_mq import entropy
from flexspec_mq.catalogue.driver import Driver
from flexspec_mq.catalogue.follower import Accepted, Follower
from flexspec_mq.catalogue.refusals import RecordError, SignedRefused
from flexspec_mq.catalogue.upkeep import Upkeep
from flexspec_mq.daemon import logs
from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.heads.place import FetchError, from_catalogue
from flexspec_mq.transport.base import Subscription

if TYPE_CHECKING:
    from cloud_worker.engine.thread import EngineThread
    from cloud_worker.versions.loader import HeadLoader
    from flexspec_mq.catalogue.store import Store
    from flexspec_mq.daemon.dated import Dated
    from flexspec_mq.protocol.worker.machine import WorkerMachine
    from schemas.status import VersionStatus

_log = logging.getLogger(__name__)


class VersionHost(Protocol):
    """The worker, as far as this needs it."""

    machine: WorkerMachine

    async def open_version(self, version: str) -> None:
        """Take sessions of a version, and say so."""
        ...

    def retire_version(self, version: str) -> None:
        """Take no new sessions of a version, and say so."""
        ...

    async def leave_version(self, version: str) -> None:
        """Leave its share; no session of it is here."""
        ...

    def publish_status(self) -> None:
        """Renew the status."""
        ...

    async def retain(self, topic: str, payload: bytes) -> None:
        """Have the broker keep a message."""
        ...


class FamilyFollower:
    """Keeps a worker's versions those of its family's catalogue; heads are at `url`, or where the catalogue says.

    Attributes:
        upkeep: puts the catalogue back where the broker lost it.
    """

    def __init__(
        self, follower: Follower, store: Store, library: Library, loader: HeadLoader, url: str = ""
    ) -> None:
        self._follower = follower
        self._driver = Driver(follower, store)
        self.upkeep = Upkeep(follower)
        self._library = library
        self._loader = loader
        self._url = url
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "heads")
        self._drafts = ThreadPoolExecutor(1, "drafts")
        self._loading: asyncio.Task[None] | None = None

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Topics of the family."""
        return tuple(map(Subscription, self._driver.topics))

    @property
    def dated(self) -> tuple[Dated, ...]:
        """The family's key set, as `Follower.dated`."""
        return self._follower.dated

    @property
    def alarm(self) -> str:
        """Trouble with the family for its operators to see; empty if there is none."""
        if self._follower.alarm is not None:
            return self._follower.alarm.detail
        return "the catalogue has expired" if self._follower.expired(entropy.wall()) else ""

    def statuses(self) -> tuple[VersionStatus, ...]:
        """Statuses of all versions."""
        return self._library.statuses()

    def receive(self, topic: str, payload: bytes) -> bool:
        """Take a message; whether it is of the family."""
        if not self._driver.take(topic, payload):
            return False
        self.upkeep.saw(topic, payload)
        return True

    def ended(self) -> None:
        """A session may have ended."""
        self._wake.set()

    async def run(self, host: VersionHost, thread: EngineThread) -> None:
        """Follow until cancelled."""
        self._take_up()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._judge_loop(), name="judge")
                group.create_task(self.upkeep.run(host.retain), name="upkeep")
                group.create_task(self._work_loop(host, thread), name="versions")
        except ExceptionGroup as died:
            raise died.exceptions[0] from None
        finally:
            for one in (self._thread, self._drafts):
                one.shutdown(wait=False, cancel_futures=True)

    async def _judge_loop(self) -> None:
        family = self._follower.family
        while True:
            for _, outcome in await self._driver.turn():
                if isinstance(outcome, Accepted):
                    self._take_up()
                elif isinstance(outcome, RecordError):
                    _log.error("family %s: nothing new is taken up: %s", family, outcome)
                elif isinstance(outcome, SignedRefused):
                    _log.warning("family %s: refused, %s: %s", family, outcome.reason, outcome.detail)

    def _take_up(self) -> None:
        catalogue = self._follower.catalogue
        if catalogue is not None:
            _log.info("family %s: epoch %d", self._follower.family, catalogue.epoch)
            self._library.follow(catalogue.versions)
        self._wake.set()

    async def _work_loop(self, host: VersionHost, thread: EngineThread) -> None:
        told = self.statuses()
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                now = entropy.now()
                while step := self._library.next_step(
                    host.machine.sessions_of, now, loading=self._loading is not None
                ):
                    await self._do(step, host, thread, group)
                if told != (told := self.statuses()):
                    host.publish_status()
                retry = None if self._loading else self._library.next_retry()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if retry is None else max(0.0, retry - now)):
                        await self._wake.wait()

    async def _do(
        self, step: Step, host: VersionHost, thread: EngineThread, group: asyncio.TaskGroup
    ) -> None:
        match step:
            case LoadHead():
                self._loading = group.create_task(self._load(step, thread), name=f"load {step.name}")
            case OpenVersion(name):
                logs.tell(f"version {name} is ready")
                await host.open_version(name)
            case RetireVersion(name):
                logs.tell(f"version {name} takes no new sessions")
                host.retire_version(name)
            case DropVersion(name):
                logs.tell(f"version {name} is gone")
                await host.leave_version(name)
                await asyncio.to_thread(self._loader.drop, name, thread)

    async def _load(self, load: LoadHead, thread: EngineThread) -> None:
        """Load a head beside the steps of running sessions, and note what came of it."""
        catalogue = self._follower.catalogue
        assert catalogue is not None  # noqa: S101  it named the version
        try:
            url = self._url or from_catalogue(catalogue.heads)
            exactness = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._loader.load, load.name, load.digest, url, thread
            )
        except (FetchError, UsageError) as error:  # the next catalogue may name another place
            _log.warning("version %s: %s", load.name, error.message)
            self._library.failed(load, error.message, entropy.now())
        except FlexSpecError as error:
            _log.warning("version %s: refused, %s", load.name, error.message)
            self._library.refused(load, error.message)
        except Exception as error:  # noqa: BLE001  whatever is wrong with a head, what runs goes on; logged
            _log.exception("version %s: refused", load.name)
            self._library.refused(load, f"{type(error).__name__}: {error}")
        else:
            if self._library.loaded(load, exactness):
                self._drafts.submit(self._loader.load_drafter, load.name, load.digest, thread)
            else:
                await asyncio.to_thread(self._loader.drop, load.name, thread)
        finally:
            self._loading = None
            self._wake.set()
