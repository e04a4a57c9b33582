"""A worker in simulated time: the real protocol machine, scheduler and rules of slots and drafts; no weights.

The decisions of a forward are in the recording, and its time is told by its cost. All else is done as
`ModelEngine.step` and the step loop of `CloudWorker` do it.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from cloud_worker.engine.kv_cache import KVCache
from cloud_worker.engine.scheduler import Scheduled, Scheduler
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import PricedDrafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.models.kv import ReadTokens
from flexspec_mq.protocol.digest import common_length
from flexspec_mq.protocol.effects import Free, ReleaseToCache, Reply, SessionKey, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import DraftRows, VersionFacts, WorkerConfig, WorkItem
from flexspec_mq.scheduling.batching_window import BatchingWindow
from flexspec_mq.scheduling.slot_budget import STEP_MS, SlotBudget
from flexspec_mq.scheduling.worker_drafter import PREFILL, WorkerDrafter
from lab.simulator.clock import Alarm, SimulatedClock
from lab.simulator.cost import DraftForward, TargetForward, Times
from lab.simulator.recording import Recording
from lab.simulator.replayed_drafter import ReplayedDrafter, by_seed
from schemas.messages import Close, Draft, Error, Open, Poll, Verdict

VERSION, NAME = "base", "worker"
TIMED_ROWS = 8
"""Drafted tokens of a forward that a worker times when it starts."""
_EVERYBODY = 1_000_000
"""Sessions that it takes at once, and that share a step."""


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """How a worker serves.

    Attributes:
        rationed: whether it gives slots out where they are worth most; otherwise all drafts get theirs.
        drafts: whether it has a draft of its own.
        lookup: whether it looks up, beside its draft or alone, as real workers do.
    """

    rationed: bool = True
    drafts: bool = True
    lookup: bool = True


class _Read(ReadTokens):
    """Tokens that a session has read, at a worker that has room for all of them."""

    head = ""
    capacity = sys.maxsize
    nbytes = token_bytes = 0

    def grown(self, _length: int) -> int:
        return self.capacity


class SimulatedWorker:
    """A worker in simulated time.

    Args:
        clock: clock of the simulation.
        cost: times of what it computes.
        recording: recording of the texts that are asked for.
        kind: how it serves.
        answer: takes its messages, by edge, with their quality of service.

    Attributes:
        machine: machine to read.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        cost: Times,
        recording: Recording,
        kind: WorkerKind,
        answer: Callable[[str, Verdict | Error, int], None],
    ) -> None:
        facts = VersionFacts(
            bytes.fromhex(recording.fingerprint), recording.max_context, recording.vocab_size
        )
        self.machine = WorkerMachine(
            WorkerConfig(worker=NAME, versions=(VERSION,), facts=facts, capacity=_EVERYBODY, prefixes=0)
        )
        self._clock = clock
        self._cost = cost
        self._texts = by_seed(recording)
        self._answer = answer
        self._budget = SlotBudget(target=STEP_MS, batch=_EVERYBODY, rationed=kind.rationed)
        self._budget.cost.prime(
            [(1, rows, cost.forward(TargetForward(1, 1 + rows))) for rows in (0, TIMED_ROWS)]
        )
        if kind.drafts:
            calls = [(sessions, cost.draft.call(DraftForward(sessions))) for sessions in (1, 4)]
            self._budget.prime(calls, cost.draft.read)
        self._drafting = 0.0  # seconds that the draft has taken, all together
        self._drafts = self._own_drafts(recording, kind) if kind.drafts or kind.lookup else None
        self._scheduler = Scheduler(KVCache(cast(Any, _Read)), self._budget, clock=lambda: clock.now)
        self._window = BatchingWindow()
        self._computing = False
        self._looks = Alarm(clock, self._look)
        self._alarm = Alarm(clock, self._tick)

    def _own_drafts(self, recording: Recording, kind: WorkerKind) -> WorkerDrafter:
        lookup = PromptLookupDrafter(max_context=recording.max_context)
        drafter: PricedDrafter = lookup
        if kind.drafts:
            drafter = ReplayedDrafter(recording, self._call, prefill=PREFILL)
            if kind.lookup:
                drafter = HybridDrafter(drafter, lookup)
        return WorkerDrafter(drafter, "recorded", clock=lambda: self._drafting)

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        self._do(self.machine.receive(edge, message, self._clock.now, qos, version))
        self._look()

    def _do(self, effects: Sequence[WorkerEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                self._answer(effect.edge, effect.message, effect.qos)
            elif isinstance(effect, Free | ReleaseToCache):
                self._forget(effect.key)

    def _forget(self, key: SessionKey) -> None:
        self._window.forget(key)
        self._scheduler.free(key)
        if self._drafts is not None:
            self._drafts.free(key)

    def _look(self) -> None:
        """Begin a step if there is work, and nobody is worth waiting for."""
        if self._computing:
            return
        now = self._clock.now
        ready = self.machine.ready()
        if not ready and not self._scheduler.pending:
            return
        wait = self._window.wait(ready, now)
        if wait <= 0.0:
            self._step()
        else:
            self._looks.by(now + wait)

    def _step(self) -> None:
        self._computing = True
        began = self._clock.now
        around = self._cost.step / 1000
        items = self.machine.take_work(began, _EVERYBODY)
        self._window.took(items)
        scheduler = self._scheduler
        for item in items:
            scheduler.add(item)
        slots = scheduler.begin()
        writing = [scheduler.pending[key] for key in slots.granted]
        drafting = self._drafting
        own = {} if self._drafts is None else self._drafts.draft(writing, slots)
        drafting = self._drafting - drafting
        drafts = {item.key: item.draft[: slots.granted[item.key]] + own.get(item.key, ()) for item in writing}
        told = {item.key: _told(item, slots.granted[item.key], own.get(item.key, ())) for item in writing}
        shares = scheduler.schedule(drafts)
        verified = sum(1 + len(draft) for draft in drafts.values())
        fed = sum(len(share.model_input.tokens) for share in shares)
        ms = self._cost.forward(_forward(shares))
        seconds = drafting + ms / 1000

        def done() -> None:
            self._budget.cost.observe(len(drafts), verified - len(drafts), fed - verified, ms)
            self._window.stepped(around + seconds)
            for share in shares:
                share.model_input.kv.tokens += share.model_input.tokens
                if share.model_input.rows:
                    self._decided(share, told.get(share.item.key, _ALL), began, int(1000 * seconds))
            self._computing = False
            self._alarm.by(self.machine.next_tick())
            self._look()

        self._clock.at(around + seconds, done)

    def _decided(self, share: Scheduled, rows: DraftRows, began: float, ms: int) -> None:
        now, item = self._clock.now, share.item
        identity = item.identity
        tokens = self._texts[identity.sampling.seed, identity.sampling.temperature].decide(
            item.start, share.draft
        )
        if not self._scheduler.settle(item, tokens):
            return
        judged = share.draft[: len(share.draft) - rows.drafted]
        right = common_length(judged, tokens)
        wrong = right < min(len(judged), len(tokens))
        self._budget.decided(item.key, len(tokens), right, wrong=wrong)
        self._window.answered(item.key, now)
        queue = max(0, int(1000 * (began - item.waiting_since)))
        self._do(self.machine.result(item, tokens, queue, ms, now, rows))

    def _call(self, forward: DraftForward) -> None:
        """The draft's forward takes its time."""
        self._drafting += self._cost.draft.call(forward) / 1000

    def _tick(self) -> None:
        due, now = self.machine.next_tick(), self._clock.now
        if due is not None and due <= now:
            self._do(self.machine.tick(now))
            due = self.machine.next_tick()
        self._alarm.by(due)


_ALL = DraftRows()


def _told(item: WorkItem, granted: int, own: tuple[int, ...]) -> DraftRows:
    """Rows of its session as the edge is told."""
    return DraftRows(len(own), None if granted == len(item.draft) else granted)


def _forward(shares: Sequence[Scheduled]) -> TargetForward:
    deciding = [share for share in shares if share.model_input.rows]
    rows = sum(share.model_input.rows for share in deciding)
    fed = sum(len(share.model_input.tokens) for share in shares)
    return TargetForward(len(deciding), rows, fed - rows)
