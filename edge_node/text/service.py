"""Which version writes a text, whether anybody serves it, and what its user is told while nobody does.

A request that names no patience waits for the link as long as a user would, whether that is away when the request
comes or goes before anybody has answered. Where there is a link, and nobody serves the version, it is refused at once.
Once it could begin, it waits out what happens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from edge_node.fleet.directory import TargetVersion
from edge_node.limits import DataSpent
from flexspec_mq import entropy, waiting
from flexspec_mq.errors import LinkDown, WorkerError
from flexspec_mq.protocol.edge.types import EdgeState

if TYPE_CHECKING:
    from edge_node.generation import Generation
    from edge_node.node import EdgeNode
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.protocol.edge.patience import Waits

QUEUED = "`wait` queues a request; `offline` has the draft write on (provisional), or a worker (deliver)"
"""Advice to whoever is refused at once."""
_log = logging.getLogger(__name__)


class Wait(NamedTuple):
    """Somebody whom a text waits for.

    Attributes:
        what: who, in words.
        until: when the text fails if nobody comes, on the clock of `entropy.now`.
    """

    what: str
    until: float

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(self.until - entropy.now(), 0.0)

    def __str__(self) -> str:
        return f"waiting for {self.what}, up to {self.left:.{0 if self.left >= 10 else 1}f} s more"


class Service:
    """Looks for a version, and for workers of it, on behalf of one text.

    Args:
        node: a node that runs.
        model: name that is asked for.
        key: names the text's conversation.
        waits: bounds of the text's waiting.
        told: told whom the text waits for, each time that it begins to.
        timeout: seconds for the whole text.
        alone: whether a model of the device may write while nobody can be reached.

    Attributes:
        waits: bounds of the text's waiting.
        alone: whether a model of the device may write while nobody can be reached.
        model: name that is asked for.
        target: version that the text opens on; see `resolve`.
    """

    def __init__(
        self,
        node: EdgeNode,
        model: str | None,
        key: bytes,
        waits: Waits,
        told: Callable[[Wait], None],
        timeout: float = inf,
        *,
        alone: bool = False,
    ) -> None:
        self._node = node
        self._directory = node.directory
        self.model = model
        self._key = key
        self.target = TargetVersion(model or node.models.default)
        self._told = told
        self.waits = waits
        self.alone = alone
        self._began = entropy.now()
        self._deadline = self._began + timeout
        self._linked_by = self._until(waits.link)
        self._served_by = self._until(waits.worker)
        self._waits_for = ""
        self._unserved_since: float | None = None

    async def linked(self) -> None:
        """Wait for the link to the broker; not for long, where the draft may write alone meanwhile.

        Nobody is told of a short wait: what fails before a stream begins has a status of its own.

        Raises:
            LinkDown: there is none within the request's patience.
            DataSpent: the bytes of the day are used up.
        """
        link = self._node.link
        shortly = 0.0 if link.spent() else max(link.answer_timeout - link.down_for, link.answer_timeout / 2)
        if await link.wait_up(shortly) or self.alone:
            return
        left = self._linked_by - entropy.now()
        if left > 0 and self.waits.named:
            self._tell(self._away, self._linked_by)
        if left <= 0 or (link.spent() and not self.waits.named) or not await link.wait_up(left):
            if link.spent():
                raise DataSpent(link.spent())
            raise LinkDown(
                f"the edge node has had no link to its broker for {link.down_for:.0f} s; "
                f"this request waited for {entropy.now() - self._began:.0f} s",
                hint="is the broker running? the node's log has the reason, `flexspec doctor` looks for it; "
                + QUEUED,
            )

    async def resolve(self) -> None:
        """Look up what the text opens on, and wait for the status of a worker of it; not for long: there may be none.

        Raises:
            NoSuchVersion: nothing goes by the name that is asked for.
            NoCatalogue: there is no catalogue to look it up in.
        """
        await self._node.models.settled()
        if self._node.wire.lapsed:  # a newer statement than that of the file may be on its way
            left = max(self._served_by - entropy.now(), 0.3 * self._node.link.answer_timeout)
            await self._directory.wait_until(lambda: not self._node.wire.lapsed, left)
        self._look_up()
        if not self._directory.blind and await self._directory.wait_until(
            self._finds, 0.3 * self._node.link.answer_timeout
        ):
            # A worker was there when the request came, so losing it is a fault during the text.
            self._served_by = self._until(self.waits.token)

    async def text(self, own: LoadedText | None) -> LoadedText:
        """Whose ids the text is written in: the target's, once its worker has told.

        Args:
            own: the node's; None where it has no tokenizer, and a worker gives it one first.

        Raises:
            WorkerError: the target's tokenizer is not the node's, and cannot be fetched; or no worker is there to ask.
            LinkDown: there is no link either.
        """
        if (texts := self._node.texts) is None:
            assert own is not None  # noqa: S101  as prompts are made elsewhere
            return own
        statuses = partial(self._directory.statuses, self.target.version)
        if own is None and not statuses():
            await self.wait()
        while (text := texts.chosen(statuses())) is None:
            there, size = texts.fetched
            if size:
                self._tell(f"the target's tokenizer, {size / 1e6:.1f} MB, once", self._until(waiting.STALLED))
            if await self._directory.wait_until(
                lambda: texts.chosen(statuses()) is not None, waiting.STALLED
            ) or texts.fetched != (there, size):
                continue
            if not (self._node.link.is_up or self.alone):
                await self.linked()
                continue
            texts.give_up(statuses())
            if (text := texts.chosen(statuses())) is None:
                raise WorkerError(
                    f"no worker of {self.target.version} has given the tokenizer of its target",
                    hint="ask again; or --tokenizer names a folder that has it",
                )
        return text

    def _until(self, seconds: float) -> float:
        """The time in so many seconds, or when the whole text's are over."""
        return min(entropy.now() + seconds, self._deadline)

    def _look_up(self) -> TargetVersion:
        self.target = self._node.models.resolve(self.model, self._key)
        return self.target

    def _finds(self) -> bool:
        """Whether what the text would open on now has a worker."""
        return self._node.models.is_online(self._look_up())

    def settled_alone(self, generation: Generation, *, wrote: bool, shown: int) -> bool:
        """Whether a session that cannot begin, and that nobody said to wait for, has all that a model here can write.

        If that is nothing, as where the battery is low, it is a text as any other from now on.
        """
        named = self.waits.named and not self._node.link.spent()
        if named or not (self.alone and wrote and self._unreached(generation)):
            return False
        self.alone = shown > 0
        return self.alone

    def unserved(self, generation: Generation) -> bool:
        """Whether it is certain that nobody serves a session which has not begun; to be asked again and again.

        A broker that went before any worker has answered counts once the request has waited for the link, in vain.
        """
        return self._unreached(generation) and (self._node.link.is_up or entropy.now() >= self._linked_by)

    def _unreached(self, generation: Generation) -> bool:
        """Whether there has been nobody for a session which has not begun, or no way to anybody, for a moment."""
        now, link = entropy.now(), self._node.link
        if self._away:
            self._unserved_since = None
            return not _answered(generation) and link.seconds >= link.answer_timeout
        if not self._nobody_serves(generation):
            self._unserved_since = None
        elif self._unserved_since is None:
            self._unserved_since = now
        return self._unserved_since is not None and now - self._unserved_since >= link.answer_timeout

    async def wait(self) -> None:
        """Wait for a worker for as long as the request does.

        Raises:
            WorkerError: there is none, or the time is over.
            LinkDown: there is no link either.
        """
        self._unserved_since = None
        await self.linked()
        if self._node.models.followed is not None and self._finds():
            return
        left = max(self._served_by - entropy.now(), 0.0)
        if left:
            self._tell(self._worker, self._served_by)
        if not (self._directory.blind and left) and not await self._directory.wait_until(self._finds, left):
            versions = sorted(self._directory.versions())
            others = (
                f"ask for one that is online: {', '.join(versions)}" if versions else "no version is online"
            )
            raise WorkerError(
                f"no worker serves {self.target.version}", hint=f"start one; {others}; {QUEUED}"
            )

    def tell(self, generation: Generation) -> None:
        """Tell whom a session that is silent waits for, if it waits for anybody."""
        machine, packed = generation.machine, generation.request.packed
        if self._away:
            if not (self.waits.named or self.alone or _answered(generation)):
                return  # it begins soon, or fails
            what = self._away
        elif packed is not None and 0 < generation.fetched < len(packed.data):
            what = (
                f"a worker of {machine.version}, which fetches the request of {len(packed.data) / 1e6:.1f} MB"
            )
        elif machine.state is not EdgeState.OPENING:
            return
        elif not self.is_online:
            what = self._worker
        else:
            what = f"{'a place at' if machine.counters.busy else 'an answer of'} a worker of {self.target.version}"
        self._tell(what, generation.patience.gives_up_at)

    def goes_on(self) -> None:
        """The text waits for nobody any more."""
        self._waits_for = ""

    @property
    def _away(self) -> str:
        """Whom a text waits for before anybody can be reached; empty where that is so."""
        spent = self._node.link.spent()
        return f"the next day, as {spent}" if spent else "" if self._node.link.is_up else "the broker"

    @property
    def _worker(self) -> str:
        online = ", ".join(sorted(self._directory.versions())) or "none"
        return f"a worker of {self.target.version} (versions online: {online})"

    def _tell(self, what: str, until: float) -> None:
        if what != self._waits_for:
            self._waits_for, wait = what, Wait(what, until)
            _log.warning("%s", wait)
            self._told(wait)

    def _nobody_serves(self, generation: Generation) -> bool:
        """Whether nobody serves the version over the link that there is, as far as anybody can know.

        Once a worker has answered, the session's own rules say for how long it goes on. Before that, that no status
        is there proves nothing by itself: access rules may keep all of them from us. Either the broker says that
        nobody listens to opens of the version, or there is a status of another worker.
        """
        workers, machine = self._directory, generation.machine
        if machine.counters.verdicts:
            return False
        if machine.counters.busy and self._node.models.followed is None:
            return False  # with a family a worker that has dropped the version says so as well
        return not self.is_online and (machine.nobody or workers.any)

    @property
    def is_online(self) -> bool:
        """Whether a worker of what the text opens on is there."""
        return self._node.models.is_online(self.target)


def _answered(generation: Generation) -> bool:
    """Whether any worker has answered a session."""
    counters = generation.machine.counters
    return bool(counters.verdicts or counters.busy)
