"""Which version writes a text, and whether anybody serves it.

The latter is known long before a session gives up, so that the user is told at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from edge_node.fleet.directory import TargetVersion
from flexspec_mq.errors import WorkerError
from flexspec_mq.waiting import LOOK_UNSERVED, STATUS_RETAINED, TARGET_TEXT, UNSERVED

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode
    from flexspec_mq.models.load import LoadedText

Waiting = Callable[[str, list[str], float], None]
"""Told the version that no worker serves, versions that are online, and seconds that one is waited for."""


_log = logging.getLogger(__name__)


class Service:
    """Looks for a version, and for workers of it, on behalf of one text.

    Args:
        node: a node that runs.
        model: name that is asked for.
        key: names the text's conversation.
        patience: seconds to wait for a worker when there is none.
        waiting: told before that.

    Attributes:
        target: version that the text opens on; see `resolve`.
    """

    def __init__(
        self, node: EdgeNode, model: str | None, key: bytes, patience: float, waiting: Waiting | None
    ) -> None:
        self._node = node
        self._directory = node.directory
        self._model = model
        self._key = key
        self.target = TargetVersion(model or node.models.default)
        self._patience = patience
        self._waiting = waiting
        self._until: float | None = None

    async def resolve(self) -> None:
        """Look up what the text opens on, and wait for the status of a worker of it; not for long: there may be none.

        Raises:
            NoSuchVersion: nothing goes by the name that is asked for.
            NoCatalogue: there is no catalogue to look it up in.
        """
        await self._node.models.settled()
        self._look_up()
        if not self._directory.blind:
            await self._directory.wait_until(self._finds, STATUS_RETAINED)

    async def text(self, own: LoadedText) -> LoadedText:
        """Whose ids the text is written in: the target's, once its worker has told.

        Args:
            own: the node's.

        Raises:
            WorkerError: the node's vocabulary is not the target's.
        """
        if (texts := self._node.texts) is None:
            return own
        statuses = partial(self._directory.statuses, self.target.version)
        if not await self._directory.wait_until(lambda: texts.chosen(statuses()) is not None, TARGET_TEXT):
            texts.give_up(statuses())
        return texts.chosen(statuses()) or own

    def _look_up(self) -> TargetVersion:
        self.target = self._node.models.resolve(self._model, self._key)
        return self.target

    def _finds(self) -> bool:
        """Whether what the text would open on now has a worker."""
        return self._node.models.is_online(self._look_up())

    async def unserved(self, generation: Generation) -> None:
        """Return as soon as it is certain that nobody serves a session; to be cancelled when it begins."""
        since = time.monotonic()
        while time.monotonic() - since < UNSERVED:
            await asyncio.sleep(LOOK_UNSERVED)
            if not self._nobody_serves(generation):
                since = time.monotonic()

    async def wait(self) -> None:
        """Wait for a worker for as long as was asked for.

        Raises:
            WorkerError: there is none, or the time is over.
        """
        if self._node.models.followed is not None and self._finds():
            return
        now = time.monotonic()
        versions = sorted(self._directory.versions())
        if self._until is None:
            self._until = now + self._patience
            if self._patience > 0:
                online = ", ".join(versions) or "none"
                what = f"no worker serves {self.target.version}; waiting up to {self._patience:g} s for one"
                _log.warning("%s (versions online: %s)", what, online)
                if self._waiting is not None:
                    self._waiting(self.target.version, versions, self._patience)
        left = max(self._until - now, 0.0)
        if not (self._directory.blind and left) and not await self._directory.wait_until(self._finds, left):
            others = (
                f"ask for one that is online: {', '.join(versions)}" if versions else "no version is online"
            )
            raise WorkerError(f"no worker serves {self.target.version}", hint=f"start one; {others}")

    def _nobody_serves(self, generation: Generation) -> bool:
        """Whether nobody serves the version now, as far as anybody can know.

        Once a worker has answered, the session's own rules say for how long it goes on. Before that, that no status
        is there proves nothing by itself: access rules may keep all of them from us. Either the broker says that
        nobody listens to opens of the version, or there is a status of another worker.
        """
        workers, machine = self._directory, generation.machine
        if machine.counters.verdicts or not self._node.link.is_up:
            return False
        if machine.counters.busy and self._node.models.followed is None:
            return False  # with a family a worker that has dropped the version says so as well
        return not self._is_online and (machine.nobody or workers.any)

    @property
    def _is_online(self) -> bool:
        return self._node.models.is_online(self.target)
