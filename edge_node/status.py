"""A node's word to operators: its retained status, at birth, at death and when there is news."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from flexspec_mq import entropy, topics, waiting
from flexspec_mq.codec import Codec
from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.errors import RemoteProtocolError, WorkerError
from flexspec_mq.protocol.effects import Finish, FinishReason
from flexspec_mq.transport.base import Outbound
from schemas.catalogue import MAX_VERSIONS
from schemas.status import DIGEST, EdgeStatus, VersionFigures

if TYPE_CHECKING:
    from edge_node.fleet.catalogue import FamilyCatalogue
    from edge_node.generation import Generation
    from edge_node.link_state import LinkState, NodeState
    from edge_node.settings import EdgeSettings

_SUMMED = ("answers", "errors", "drafted", "accepted", "tokens", "seconds")
_COMPLETE = (FinishReason.EOS, FinishReason.STOP, FinishReason.LENGTH)


class VersionTally:
    """Sums over sessions, for as many versions as a catalogue can have; the one that wrote longest ago goes first."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], VersionFigures] = {}

    def add(self, seen: VersionFigures) -> None:
        """Count a session that is over."""
        before = self._sums.pop((seen.name, seen.digest), None)
        sums = {field: getattr(seen, field) + getattr(before, field, 0) for field in _SUMMED}
        low, high = wilson(sums["accepted"], sums["drafted"])
        self._sums[seen.name, seen.digest] = replace(seen, low=low, high=high, **sums)
        while len(self._sums) > MAX_VERSIONS:
            del self._sums[next(iter(self._sums))]

    def figures(self) -> tuple[VersionFigures, ...]:
        """Figures of all versions, the last one at the end."""
        return tuple(self._sums.values())


class StatusPublisher:
    """The retained status of a node.

    Args:
        settings: settings of the device.
        sessions: texts being written.
        family: catalogue of the family that the node follows; None without one.
        link: link to the broker.
        state: state of the node for its users.

    Attributes:
        tally: sums of each version of the family.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        sessions: Sized,
        family: FamilyCatalogue | None,
        link: LinkState,
        state: NodeState,
    ) -> None:
        self.tally = VersionTally()
        self._settings = settings
        self._sessions = sessions
        self._family = family
        self._link = link
        self._state = state
        self._waiting = 0  # as told last
        self._topic = topics.edge_status_topic(settings.edge)
        self._codec = Codec()
        self._epoch = round(1000 * entropy.wall())
        self._incarnation = entropy.bits(32)
        self._news = asyncio.Event()

    @property
    def will(self) -> Outbound:
        """The will of the node's link.

        An edge whose name nobody chose has its status cleared, lest the broker keep one for each run.
        """
        return Outbound(
            self._topic, b"" if self._settings.ephemeral else self._status("gone"), 1, retain=True
        )

    def message(self) -> Outbound:
        """The status as it is now."""
        return Outbound(self._topic, self._status("online"), 1, retain=True)

    def count(self, generation: Generation, finish: Finish) -> None:
        """Count what a text that is over has shown of its version.

        Busy workers, or a broker out of reach, are no fault of a version.
        """
        if self._waiting:
            self._news.set()
        if self._family is None:
            return
        machine, seen = generation.machine, generation.machine.observation
        fails = finish.reason is FinishReason.DEADLINE or (
            finish.reason is FinishReason.FAILED
            and isinstance(finish.error, WorkerError | RemoteProtocolError)
        )
        answers = finish.reason in _COMPLETE
        errors = fails and (seen.committed > 0 or not machine.counters.busy)
        drafted = machine.counters.judged + machine.counters.worker_judged
        if not (answers or errors or drafted or generation.paced):
            return  # it ended before it began
        shown = VersionFigures(
            name=machine.version,
            digest=generation.request.digest[: 2 * DIGEST],
            answers=answers,
            errors=errors,
            drafted=drafted,
            accepted=machine.counters.accepted + machine.counters.worker_accepted,
            tokens=generation.paced,
            seconds=generation.seconds,
        )
        self.tally.add(shown)
        self._news.set()

    async def follow(self, family: FamilyCatalogue) -> None:
        """Have what is new of the family told."""
        while True:
            await family.news()
            self._news.set()

    async def run(self, publish: Callable[[Outbound], None]) -> None:
        """Tell what is new of the family and its versions, and how many texts still wait of those that did.

        A status that is lost is told again by the next birth.
        """
        while True:
            await self._news.wait()
            self._news.clear()
            publish(self.message())
            await asyncio.sleep(waiting.STATUS / 5)

    def _status(self, state: Literal["online", "gone"]) -> bytes:
        family, self._waiting = self._family, self._state.waiting()
        return self._codec.encode_status(
            EdgeStatus(
                state=state,
                epoch=self._epoch,
                at=entropy.wall(),
                edge=self._settings.edge,
                draft=self._settings.draft,
                sessions=len(self._sessions),
                catalogue=None if family is None else family.status(),
                versions=() if family is None else self.tally.figures(),
                life=self._incarnation,
                waiting=self._waiting,
                outage=self._link.outage,
            )
        )
