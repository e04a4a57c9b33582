"""The journal on a thread of its own: nobody on the event loop waits for the disk, unless by `await`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edge_node.outbox.entries import Entry, NoRoom, Opening, OutboxError
from flexspec_mq import waiting
from flexspec_mq.errors import Cancelled, FlexSpecError

if TYPE_CHECKING:
    from edge_node.outbox.journal import Journal
    from flexspec_mq.protocol.effects import Commit

P = ParamSpec("P")
R = TypeVar("R")
ASKED = "mqtt"
"""Path of asks by MQTT; those who answer them go on with them after a restart."""
_log = logging.getLogger(__name__)


class Outbox:
    """Calls of a journal, in the order in which they were made.

    Args:
        journal: begins another incarnation of its unfinished texts here, or by `begin` where its disk is full.
        convert: given a request of version 0.2.0, that as it is persisted today.

    Attributes:
        journal: names the calls for `run`.
        left: ids of requests that are to be written on by themselves, in order; see `go_on`.
        asked: the same of asks by MQTT, with those whose answer nobody has read.
        fresh: ids of unfinished requests that nothing of their present incarnation was sent for.
        counts: number of requests in each state; see `Journal.counts`.
    """

    def __init__(self, journal: Journal, convert: Callable[[Entry], bytes] | None = None) -> None:
        self.journal = journal
        self._convert = convert
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.fresh = set[str]()
        self._begun = False
        try:
            self._go_on_with(self._begin())
        except NoRoom as full:
            _log.error("%s", full)
        self.counts = journal.counts()
        self._thread = ThreadPoolExecutor(1, "outbox")
        self._commits: dict[str, list[Commit]] = {}  # not written yet
        self._timer: asyncio.TimerHandle | None = None
        self._behind: set[asyncio.Future[Any]] = set()
        self._closed = False

    def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """Call the journal; the future raises `OutboxError` where the call does, and `Cancelled` once it is closed."""
        loop = asyncio.get_running_loop()

        def called() -> R:
            result = call(*args, **kwargs)
            self.counts = self.journal.counts()
            return result

        if self._closed:
            late: asyncio.Future[R] = loop.create_future()
            late.set_exception(Cancelled("the edge node is stopping"))
            return late
        return loop.run_in_executor(self._thread, called)

    async def begin(self) -> None:
        """Begin as soon as there is room, where there was none at first."""
        while not self._begun:
            await asyncio.sleep(waiting.STATUS / 2)
            with suppress(OutboxError):
                self._go_on_with(await self.run(self._begin))
                _log.warning("there is room for the outbox again")

    def later(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call the journal, and only log where that fails: a text goes on without it."""
        future = self.run(call, *args, **kwargs)
        self._behind.add(future)
        future.add_done_callback(self._behind.discard)
        future.add_done_callback(_logged)

    def go_on(self, name: str, path: str) -> None:
        """Have a request written on when its turn comes."""
        (self.asked if path == ASKED else self.left).put_nowait(name)

    async def send(self, entry: Entry) -> None:
        """Have a text written that has waited for its user."""
        await self.run(self.journal.unpark, entry.id)
        self.fresh.add(entry.id)
        self.go_on(entry.id, entry.path)

    def commit(self, name: str, commit: Commit) -> None:
        """Take committed tokens, which are written with those of other texts a moment later."""
        self._commits.setdefault(name, []).append(commit)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(waiting.OUTBOX_TOKENS, self.write)

    async def close(self) -> None:
        """Write what there is, and close the file."""
        self.write()
        if self._behind:
            await asyncio.wait(self._behind)
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self.journal.close)
        self._thread.shutdown(wait=False)

    def write(self) -> None:
        """Write the tokens that have come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        commits, self._commits = self._commits, {}
        if commits:
            self.later(self.journal.commit, commits, promised=False)

    def _begin(self) -> list[Entry]:
        self.journal.begin()
        for entry in self.journal.entries():
            if self._convert is not None and entry.body[:1] == b"{":
                with suppress(FlexSpecError):  # else it is told when its turn comes
                    self.journal.rewrite(entry.id, self._convert(entry))
        return self.journal.entries()

    def _go_on_with(self, entries: list[Entry]) -> None:
        self._begun = True
        self.fresh |= {entry.id for entry in entries if entry.unfinished}
        for entry in entries:
            if entry.unfinished or (entry.path == ASKED and entry.state == "done" and not entry.read):
                self.go_on(entry.id, entry.path)


class TextRecord:
    """The page of one text in the outbox, for whoever writes the text.

    Args:
        outbox: the outbox.
        entry: the request.
        commits: tokens of earlier incarnations.

    Attributes:
        opened: session of an earlier incarnation; None without one.
    """

    def __init__(self, outbox: Outbox, entry: Entry, commits: list[Commit]) -> None:
        self._outbox = outbox
        self._name = entry.id
        self._delivers = entry.mode == "deliver"
        self.restarts = entry.restarts
        self.path = entry.path
        self.opened = entry.opened
        self.commits = commits
        self._begun = bool(commits)

    @property
    def tokens(self) -> tuple[int, ...]:
        """All tokens of earlier incarnations."""
        return tuple(token for commit in self.commits for token in commit.tokens)

    def open(self, opened: Opening) -> None:
        """Note a session, which is on the disk before any token is shown; at once where its answer may be delivered."""
        self._outbox.later(self._outbox.journal.open, self._name, opened, promised=self._delivers)

    async def commit(self, commit: Commit, *, again: bool) -> None:
        """Note tokens. The first ones of a text are on the disk, with its session, when this returns.

        Args:
            commit: tokens.
            again: whether the same come again where they are lost. All others are in the file before they are shown,
                where a power cut alone may take them from.
        """
        if self._begun and again:
            self._outbox.commit(self._name, commit)
            return
        first, self._begun = not self._begun, True
        written = self._outbox.run(self._outbox.journal.commit, {self._name: [commit]}, promised=first)
        await asyncio.wait([written])
        _logged(written)


def _logged(call: asyncio.Future[Any]) -> None:
    """Log an error of the disk; what comes too late is told to whoever asks again."""
    if isinstance(error := call.exception(), Cancelled):
        return
    if isinstance(error, OutboxError):
        _log.error("%s", error)
    elif error is not None:
        raise error
