"""Drafts of the worker's own, behind the edges': forwards of a draft for the sessions that they are worth it for.

Both sides draw the same noise, so who drafts a token changes nothing but the time. The target verifies these drafts
with the edges' own, in the same forward.

Where there is a core for it, prompts are read on a thread of the draft's own while the target computes: as a rule the
draft has read one before the target has. Otherwise they are read before forwards, which takes their time.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexspec_mq.drafting.interface import DraftRequest, DraftToken, PricedDrafter
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.scheduling.costs import LEARN
from flexspec_mq.scheduling.slot_budget import PRIOR
from flexspec_mq.scheduling.step_slots import StepSlots

if TYPE_CHECKING:
    from flexspec_mq.protocol.worker.types import WorkItem

_log = logging.getLogger(__name__)

MOST_TOKENS = 65_536
"""Tokens of contexts that a draft keeps the KV cache of: 1.4 GB of the default draft's with ONNX Runtime, half of
it with the compact engine."""
_NEXT = 16
"""Tokens that a draft has always to read: what was decided without it."""
_USUAL = 64
"""Forwards of two tokens that a text is taken to have still, if its limit allows."""
_FORGIVEN = 1 / 16
"""Share of the way back to what is usual at which a session begins, from the draft's acceptance in the one before."""
_BEGINS = 2.0
"""Tokens that what a session begins with counts for."""
PREFILL = 64
"""Tokens of prompts that one forward of a worker's draft reads, as all sessions wait for it."""


@dataclass(slots=True)
class _Session:
    """State of a session between steps.

    Attributes:
        drafter: drafter of its version.
        number: at the drafter.
        strength: how likely tokens of the model were right lately, as far as it knew.
        tokens: length of its context, with room.
        read: how much of its context the model has read, as far as was asked.
        tries: tokens that its strength rests on.
        grammar: `CompiledGrammar` of its texts; None without one.
    """

    drafter: PricedDrafter
    number: int
    strength: float
    tokens: int = 0
    read: int = 0
    tries: float = _BEGINS
    grammar: Any = None

    def judge(self, confidence: float) -> None:
        """The model has drafted a token: the first ones tell most."""
        self.tries = min(self.tries + 1.0, 1.0 / LEARN)
        self.strength += (confidence - self.strength) / self.tries


@dataclass(slots=True)
class _Path:
    """Draft of an item in this step.

    Attributes:
        context: Tokens of the text with the edge's draft, and our own behind it.
        unread: how much of it the model has to read yet.
        own: drafted so far.
        done: nothing more is wanted.
    """

    item: WorkItem
    session: _Session
    context: list[int]
    unread: int = 0
    own: tuple[int, ...] = ()
    done: bool = False

    @property
    def wanted(self) -> tuple[float, float]:
        """How likely the next token is right, and what is to be read first, for each forward that is to come."""
        item = self.item
        left = item.identity.limit - (len(item.context) - item.prompt_length)
        forwards = max(1.0, min(left / 2, _USUAL))
        return self.session.strength, max(0, self.unread - _NEXT) / forwards

    @property
    def reads(self) -> bool:
        """Whether the model has more to read than what was decided without it."""
        return self.unread > _NEXT

    def look(self, drafter: PricedDrafter) -> None:
        """See how much is unread."""
        self.unread = len(self.context) - self.session.read
        if self.reads:
            self.unread = drafter.unread(self.request())
            self.session.read = len(self.context) - self.unread

    def request(self, survival: float = 1.0, *, model_only: bool = False) -> DraftRequest:
        """Ask for the next token."""
        item = self.item
        return DraftRequest(
            session=self.session.number,
            context=self.context,
            identity=item.identity,
            committed=len(item.context),
            prompt_length=item.prompt_length,
            most=item.room - len(self.own),
            joint_acceptance=survival,
            device=item.key[0],
            grammar=self.session.grammar,
            model_only=model_only,
        )


class WorkerDrafter:
    """Drafts for the sessions of a worker, on the engine's thread: by one drafter, or that of a version.

    Drafts are hints: a drafter that raises is not asked again, and the texts go on without it. Beyond so many tokens of
    contexts, the sessions that were drafted for longest ago are forgotten.

    Args:
        drafter: proposes tokens.
        name: name of its draft, for people.
        beside: see below.
        most_tokens: tokens of contexts that it keeps the KV cache of.
        clock: seconds.

    Attributes:
        drafter: None once it has failed.
        name: empty once it has failed.
        drafted: tokens of the newest step.
        beside: prompts are read beside the target's forwards.
        grammar_of: gives a `CompiledGrammar` by its digest.
    """

    def __init__(
        self,
        drafter: PricedDrafter,
        name: str,
        *,
        beside: bool = False,
        most_tokens: int = MOST_TOKENS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.drafter: PricedDrafter | None = drafter
        self.name = name
        self._of_version: dict[str, PricedDrafter] = {}
        self.drafted = 0
        self.beside = beside
        self.grammar_of: Callable[[bytes], Any] = lambda _digest: None
        self._most_tokens = most_tokens
        self._clock = clock
        self._numbers = itertools.count()
        self._strength = PRIOR  # that a new session begins with
        self._known: dict[SessionKey, _Session] = {}
        """The newest drafted for at the end."""
        self._thread = ThreadPoolExecutor(1, "drafter") if beside else None
        self._reading: Future[None] | None = None
        self._halts = False
        self._ended: list[_Session] = []  # sessions that are over since the thread has begun to read

    def read(self, items: Iterable[WorkItem], slots: StepSlots) -> None:
        """Begin to read what the model has not of items that it will draft for, if it reads beside the target.

        Args:
            items: all that are under way.
            slots: tells whether a forward of the draft would be worth it for each.
        """
        if self._thread is None or (self._reading and not self._reading.done()):
            return
        self._wait()
        if (drafter := self.drafter) is None:
            return
        unread = [item for item in items if item.room and not self._has_read(item)]
        paths = [self._path(item, self._of_version.get(item.version, drafter)) for item in unread]
        paths = [path for path in paths if slots.worth_calling({path.item.key: (path.session.strength, 0.0)})]
        if paths:
            self._hold(paths)
            self._reading = self._thread.submit(self._read, paths)

    def draft(self, items: Sequence[WorkItem], slots: StepSlots) -> dict[SessionKey, tuple[int, ...]]:
        """Tokens behind the drafts of items with room, up to their room and as long as they are worth their time.

        A session whose prompt the drafter has not read to its end gets none of the model in this step: a piece of it
        is read, if it is going to be worth that. Tokens found by lookup take no forward of the model, and no prompt
        that was read.
        """
        self.drafted = 0
        drafter = self.drafter
        wanted = [item for item in items if item.room and slots.granted.get(item.key) == len(item.draft)]
        if drafter is not None and self._thread is not None:
            wanted = [item for item in wanted if self._has_read(item) or not drafter.fits(item.context)]
        if not wanted:
            return {}
        self._wait()
        if self.drafter is None:
            return {}
        of_drafter: dict[int, tuple[PricedDrafter, list[WorkItem]]] = {}
        for item in wanted:
            one = self._of_version.get(item.version, self.drafter)
            of_drafter.setdefault(id(one), (one, []))[1].append(item)
        own: dict[SessionKey, tuple[int, ...]] = {}
        try:
            for one, its in of_drafter.values():
                own |= self._drafted(one, its, slots)
        except Exception:  # noqa: BLE001  logged, and the target needs no drafts
            self._fail()
            return {}
        self.drafted = sum(map(len, own.values()))
        return own

    def hold(self, version: str, drafter: PricedDrafter) -> None:
        """From now on a drafter of its own drafts for a version."""
        self._of_version[version] = drafter

    def drop(self, version: str) -> None:
        """Let go of a version's own drafter, if it has one; no session of the version is left."""
        self._of_version.pop(version, None)

    def free(self, key: SessionKey) -> None:
        """Forget a session; it need not be known."""
        known = self._known.pop(key, None)
        if known is not None:
            self._strength = known.strength + _FORGIVEN * (PRIOR - known.strength)
            self._ended.append(known)
            if self._reading is None:
                self._wait()

    def _wait(self) -> None:
        """Wait for the piece that is being read, after which the drafter is ours."""
        reading, self._reading = self._reading, None
        if reading is not None:
            self._halts = True
            try:
                reading.result()
            except Exception:  # noqa: BLE001  as above
                self._fail()
            self._halts = False
        ended, self._ended = self._ended, []
        for session in ended:
            session.drafter.free(session.number)

    def _fail(self) -> None:
        _log.exception("the worker's drafter failed; texts go on without its drafts")
        self.drafter, self.name = None, ""
        self._known.clear()
        self._of_version.clear()

    def _read(self, paths: Sequence[_Path]) -> None:
        """Read prompts, piece by piece, on the thread."""
        for path in paths:
            drafter = path.session.drafter
            drafted: Sequence[DraftToken] | None = None
            while (
                drafted is None
                and not self._halts
                and path.item.key in self._known
                and drafter.fits(path.context)
            ):
                (drafted,) = drafter.draft([path.request(model_only=True)])
            if drafted is not None:
                path.session.read = len(path.context)

    def _has_read(self, item: WorkItem) -> bool:
        """Whether the model has read an item's context but for what was decided without it."""
        known = self._known.get(item.key)
        read = 0 if known is None else known.read
        return len(item.context) + len(item.draft) - read <= _NEXT

    def _drafted(
        self, drafter: PricedDrafter, items: Sequence[WorkItem], slots: StepSlots
    ) -> dict[SessionKey, tuple[int, ...]]:
        if not slots.bears and not self._may_call(items, slots):
            slots.calls.fade()
            return {}
        paths = {item.key: self._path(item, drafter) for item in items}
        called = False
        while open_ := {
            key: path for key, path in paths.items() if not path.done and drafter.fits(path.context)
        }:
            for path in open_.values():
                path.look(drafter)
            wanted = {key: path.wanted for key, path in open_.items()}
            keys = slots.worth_calling(wanted)
            if not keys:
                if not called and not all(path.reads for path in open_.values()):
                    slots.calls.fade()
                self._look_up(drafter, open_, slots)
                break
            called = True
            self._call(drafter, {key: open_[key] for key in keys}, slots)
        return {key: path.own for key, path in paths.items() if path.own}

    def _may_call(self, items: Sequence[WorkItem], slots: StepSlots) -> bool:
        """Whether a forward of the draft would be worth it if it had nothing to read; looks at no context."""
        strengths = ((item.key, self._known.get(item.key)) for item in items)
        wanted = {key: (self._strength if known is None else known.strength, 0.0) for key, known in strengths}
        return bool(slots.worth_calling(wanted))

    def _call(self, drafter: PricedDrafter, paths: Mapping[SessionKey, _Path], slots: StepSlots) -> None:
        """Ask for the next tokens of sessions, or have a piece of their prompts read."""
        self._hold(list(paths.values()))
        began = self._clock()
        drafted = drafter.draft([path.request(slots.survival(key)) for key, path in paths.items()])
        ms = 1000 * (self._clock() - began)
        slots.spend(ms)
        nobody = all(proposals is None for proposals in drafted)
        read = 0
        for path, proposals in zip(paths.values(), drafted, strict=True):
            before = path.unread
            if proposals is None:
                path.look(drafter)
                # Others were answered first, or a piece of its prompt was read, which is all for this step.
                path.done = nobody or path.unread < before
                read += max(0, before - path.unread)
            elif any(proposal.origin == "model" for proposal in proposals):
                read += before
            if proposals is not None:
                _take(path, proposals, slots)
        if read:  # lookups alone do not tell what a forward of the draft takes
            slots.calls.observe((len(paths), max(0, read - len(paths))), ms)

    def _look_up(self, drafter: PricedDrafter, paths: Mapping[SessionKey, _Path], slots: StepSlots) -> None:
        """Take what is found for sessions that no forward of the model is worth it for, as far as all bear it."""
        if not slots.bears:
            return
        self._hold(list(paths.values()))
        found = drafter.lookups([path.request(slots.survival(key)) for key, path in paths.items()])
        for path, proposals in zip(paths.values(), found, strict=True):
            _take(path, itertools.takewhile(lambda _: slots.bears, proposals), slots)

    def _path(self, item: WorkItem, drafter: PricedDrafter) -> _Path:
        session = self._known.get(item.key)
        if session is None:
            session = _Session(drafter, next(self._numbers), self._strength)
            if item.identity.grammar is not None:
                session.grammar = self.grammar_of(item.identity.grammar)
        if session.drafter is not drafter:  # the version has got one of its own meanwhile
            session.drafter.free(session.number)
            session.drafter, session.read = drafter, 0
        return _Path(item, session, [*item.context, *item.draft])

    def _hold(self, paths: Sequence[_Path]) -> None:
        """Sessions are drafted for now: they are the newest, and others go where there are too many tokens."""
        for path in paths:
            path.session.tokens = len(path.item.context) + len(path.item.draft) + path.item.room
            self._known.pop(path.item.key, None)
            self._known[path.item.key] = path.session
        held = sum(session.tokens for session in self._known.values())
        for key in list(self._known)[: -len(paths)]:
            if held <= self._most_tokens:
                return
            held -= self._known[key].tokens
            self.free(key)


def _take(path: _Path, proposals: Iterable[DraftToken], slots: StepSlots) -> None:
    """Go on with what was proposed, as far as it is worth its slots. Nothing ends the draft."""
    item = path.item
    before = len(path.own)
    for proposal in itertools.islice(proposals, item.room - before):
        if proposal.origin == "model":
            path.session.read = len(path.context)
            path.session.judge(proposal.confidence)
        if not slots.take(item.key, proposal.confidence):
            path.done = True
            return
        path.own += (proposal.token,)
        path.context.append(proposal.token)
    path.done = len(path.own) in (before, item.room)
    path.done |= not item.identity.ignore_eos and path.context[-1] in item.identity.eos
