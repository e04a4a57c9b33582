"""Times of the target's and the draft's forwards, measured once when a worker starts, before anybody waits."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.drafting.interface import DraftRequest
from flexspec_mq.models.runner import ModelInput
from schemas.messages import NOISE_VERSION, Identity, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flexspec_mq.drafting.interface import PricedDrafter
    from flexspec_mq.models.invariance.target import TargetModel
    from flexspec_mq.scheduling.worker_drafter import WorkerDrafter

_log = logging.getLogger(__name__)

_PREFIX = 48
"""Tokens that every session has read before it is timed."""
_TRIES = 3
"""Tries of each forward. The quickest counts, as something else may have had the processor."""
_SESSIONS = 4
"""Sessions of a forward that is for several."""
_ROWS = 8
"""Drafted tokens of a verification that is timed."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds.

    Attributes:
        forwards: Forwards of the target, by sessions that it decides and drafted tokens of theirs.
        calls: Forwards of the draft, by sessions; empty without a model.
        read: Time of the draft for a token of a prompt; None without a model.
        beside: The draft reads prompts beside the target's forwards.
    """

    forwards: tuple[tuple[int, int, float], ...]
    calls: tuple[tuple[int, float], ...] = ()
    read: float | None = None
    beside: bool = False

    @property
    def holds_up(self) -> float | None:
        """The time by which forwards wait for a token of a prompt that the draft reads; None without a model."""
        return 0.0 if self.beside else self.read

    @property
    def forward(self) -> float:
        """The time of a forward for one token of one session."""
        return self.forwards[0][2]

    @property
    def row(self) -> float:
        """The time that one more drafted token adds to a forward."""
        _, rows, ms = self.forwards[1]
        return max(0.0, ms - self.forward) / rows

    @property
    def token(self) -> float | None:
        """The time of a drafted token of one session; None without a model."""
        return self.calls[0][1] if self.calls else None


def timed(model: TargetModel, drafts: WorkerDrafter | None) -> Timings:
    """Time some forwards; a drafter that cannot run here is left to those who draft with it."""
    forwards = (
        (1, 0, _forward(model, 1, 0)),
        (1, _ROWS, _forward(model, 1, _ROWS)),
        (_SESSIONS, 0, _forward(model, _SESSIONS, 0)),
        (_SESSIONS, _SESSIONS * _ROWS, _forward(model, _SESSIONS, _ROWS)),
    )
    if drafts is None or drafts.drafter is None:
        return Timings(forwards)
    try:
        calls, read = _draft(drafts.drafter, model.vocab_size)
    except (RuntimeError, MemoryError, ValueError, OSError):  # of torch and ONNX Runtime; drafts are hints
        _log.exception("the worker's drafter could not be timed")
        return Timings(forwards)
    return Timings(forwards, calls, read, drafts.beside)


def _forward(model: TargetModel, sessions: int, rows: int) -> float:
    """Time a forward of so many sessions, each with so many drafted tokens."""
    kept = [model.new_kv() for _ in range(sessions)]
    for number, kv in enumerate(kept):
        model.forward([ModelInput(kv, _tokens(number, _PREFIX, model.vocab_size), 0)])

    def once() -> None:
        model.forward([ModelInput(kv, [1] * (1 + rows), 1 + rows) for kv in kept])
        for kv in kept:
            kv.roll_back(_PREFIX)

    return _quickest(once)


def _draft(drafter: PricedDrafter, vocabulary: int) -> tuple[tuple[tuple[int, float], ...], float | None]:
    """Time the draft for one session and for several, and a token that it reads; empty where it has no model."""
    identity = Identity(NOISE_VERSION, bytes(16), Sampling(), (), True, 2 * _PREFIX)
    contexts = [_tokens(number, _PREFIX, vocabulary) for number in range(_SESSIONS)]
    wanted = [
        DraftRequest(
            session=-1 - number,
            context=context,
            identity=identity,
            committed=_PREFIX,
            prompt_length=_PREFIX,
            most=1,
        )
        for number, context in enumerate(contexts)
    ]
    try:
        unread = drafter.unread(wanted[0])
        if not unread:
            return (), None
        began = time.perf_counter()
        _until_read(drafter, wanted)
        read = 1000 * (time.perf_counter() - began) / (unread * _SESSIONS)

        def once(few: Sequence[DraftRequest]) -> Callable[[], None]:
            return lambda: _until_read(drafter, few)

        return ((1, _quickest(once(wanted[:1]))), (_SESSIONS, _quickest(once(wanted)))), read
    finally:
        for one in wanted:
            drafter.free(one.session)


def _until_read(drafter: PricedDrafter, wanted: Sequence[DraftRequest]) -> None:
    """Ask until each has its token."""
    for _ in range(4 * _PREFIX):
        if all(one is not None for one in drafter.draft(wanted)):
            return


def _quickest(work: Callable[[], None]) -> float:
    """Milliseconds, after a first time that does not count."""
    work()
    found = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        work()
        found.append(1000 * (time.perf_counter() - began))
    return min(found)


def _tokens(number: int, count: int, vocabulary: int) -> list[int]:
    """Different ones, so that nothing is looked up."""
    return [(1 + number + 7 * place) % vocabulary for place in range(count)]
