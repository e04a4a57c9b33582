"""Whether anybody serves a version: known long before a session gives up, so that the user is told at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flexspec_mq.errors import WorkerError

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode

Waiting = Callable[[str, list[str], float], None]
"""Told the version that no worker serves, versions that are online, and seconds that one is waited for."""

_SURE = 1.0
"""Seconds for which nobody must serve a version before that is said: a worker may just be starting again."""
_STATUS = 0.3
"""Seconds that the retained status of a version's workers may take, once the link is up."""
_LOOK = 0.05

_log = logging.getLogger(__name__)


class Service:
    """Looks for workers of one version on behalf of one text.

    Args:
        node: that runs.
        version: that is asked for.
        patience: seconds to wait for a worker when there is none.
        waiting: told before that.
    """

    def __init__(self, node: EdgeNode, version: str, patience: float, waiting: Waiting | None) -> None:
        self._node = node
        self._directory = node.directory
        self._version = version
        self._patience = patience
        self._waiting = waiting
        self._until: float | None = None

    async def known(self) -> None:
        """Wait for the status of a worker of the version; not for long, as there may be none."""
        if not self._directory.blind:
            await self._directory.wait_for(self._version, _STATUS)

    async def unserved(self, generation: Generation) -> None:
        """Return as soon as it is certain that nobody serves a session; to be cancelled when it begins."""
        began = since = time.monotonic()
        asked = generation.machine.plan.qos > 0  # by its open
        while (now := time.monotonic()) - since < _SURE:
            await asyncio.sleep(_LOOK)
            if not (asked or self._is_online) and now - began > _STATUS:
                asked = True
                self._node.ask_who_listens(generation)
            if not self._nobody_serves(generation):
                since = time.monotonic()

    async def wait(self) -> None:
        """Wait for a worker for as long as was asked for.

        Raises:
            WorkerError: there is none, or the time is over.
        """
        now = time.monotonic()
        versions = sorted(self._directory.versions())
        if self._until is None:
            self._until = now + self._patience
            if self._patience > 0:
                told = ", ".join(versions) or "none"
                _log.warning(
                    "no worker serves %s; waiting up to %g s for one (versions online: %s)",
                    self._version,
                    self._patience,
                    told,
                )
                if self._waiting is not None:
                    self._waiting(self._version, versions, self._patience)
        left = max(self._until - now, 0.0)
        if not (self._directory.blind and left) and not await self._directory.wait_for(self._version, left):
            others = (
                f"ask for one that is online: {', '.join(versions)}" if versions else "no version is online"
            )
            raise WorkerError(f"no worker serves {self._version}", hint=f"start one; {others}")

    def _nobody_serves(self, generation: Generation) -> bool:
        """Whether nobody serves the version now, as far as anybody can know.

        Once a worker has answered, the session's own rules say for how long it goes on. Before that, that no status
        is there proves nothing by itself: access rules may keep all of them from us. Either the broker says that
        nobody listens to opens of the version, or there is a status of another worker.
        """
        workers, machine = self._directory, generation.machine
        if machine.counters.verdicts or machine.counters.busy or not self._node.link_up:
            return False
        return not self._is_online and (machine.nobody or workers.any)

    @property
    def _is_online(self) -> bool:
        """Whether the status of a worker says that it serves the version."""
        return self._version in self._directory.versions()
