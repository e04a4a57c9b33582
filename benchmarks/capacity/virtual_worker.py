"""A worker on a modelled accelerator, in simulated time: the real protocol machine and rule of rows, and no weights.

What a forward decides is in the recording, and what it takes is in the model. All else is done as `EngineCore.step`
and the step loop of `CloudWorker` do it. Prompts are read elsewhere, as by servers that have machines for that: a
session begins with the last token of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.capacity.cost import Cost
from benchmarks.replay.drafter import ReplayDrafter, by_seed
from benchmarks.replay.recording import Recording
from flexspec_mq.protocol.effects import Free, ReleaseToCache, Reply, SessionKey, WorkerEffect
from flexspec_mq.protocol.worker.machine import WorkerMachine
from flexspec_mq.protocol.worker.types import DraftRows, VersionFacts, WorkerConfig, WorkItem
from flexspec_mq.scheduling.batching_window import BatchingWindow
from flexspec_mq.scheduling.colocated import ColocatedDrafts
from flexspec_mq.scheduling.draft_budget import DraftBudget, tokens_right
from flexspec_mq.simulator.clock import Alarm, SimulatedClock
from schemas.messages import Close, Draft, Error, Open, Poll, Verdict

VERSION, NAME = "base", "w"
_EVERYBODY = 1_000_000
"""Sessions that it takes at once, and that share a step."""


class VirtualWorker:
    """One worker.

    Args:
        clock: of the simulation.
        cost: of what it computes.
        recording: of the texts that are asked for.
        rationed: it gives rows out where they are worth most; otherwise all drafts get theirs.
        answer: takes its messages, by edge.

    Attributes:
        machine: to read.
        steps, sessions, rows, calls: forwards, sessions and rows in them, and forwards of the draft.
        busy: seconds in which it computed.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        cost: Cost,
        recording: Recording,
        *,
        rationed: bool,
        answer: Callable[[str, Verdict | Error], None],
    ) -> None:
        facts = VersionFacts(
            bytes.fromhex(recording.fingerprint), recording.max_context, recording.vocab_size
        )
        self.machine = WorkerMachine(
            WorkerConfig(worker=NAME, versions={VERSION: facts}, capacity=_EVERYBODY, prefixes=0)
        )
        self._clock = clock
        self._cost = cost
        self._texts = by_seed(recording)
        self._answer = answer
        self._budget = DraftBudget(rationed=rationed)
        self._drafting = 0.0  # seconds that the draft has taken, all together
        self._drafts = ColocatedDrafts(
            ReplayDrafter(recording, self._call), "recorded", clock=lambda: self._drafting
        )
        self._window = BatchingWindow()
        self._computing = False
        self._looks = Alarm(clock, self._look)
        self._alarm = Alarm(clock, self._tick)
        self.steps = self.sessions = self.rows = self.calls = 0
        self.busy = 0.0

    def receive(self, edge: str, message: Open | Draft | Poll | Close, qos: int, version: str | None) -> None:
        """A message has come."""
        self._do(self.machine.receive(edge, message, self._clock.now, qos, version))
        self._look()

    def _do(self, effects: Sequence[WorkerEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Reply):
                self._answer(effect.edge, effect.message)
            elif isinstance(effect, Free | ReleaseToCache):
                self._forget(effect.key)

    def _forget(self, key: SessionKey) -> None:
        self._window.forget(key)
        self._budget.forget(key)
        self._drafts.free(key)

    def _look(self) -> None:
        """Begin a step if there is work, and nobody is worth waiting for."""
        if self._computing:
            return
        now = self._clock.now
        ready = self.machine.ready()
        if not ready:
            return
        wait = self._window.wait(ready, now)
        if wait <= 0.0:
            self._step()
        else:
            self._looks.by(now + wait)

    def _step(self) -> None:
        self._computing = True
        began = self._clock.now
        items = self.machine.take_work(began, _EVERYBODY)
        self._window.took(items)
        rows = self._budget.allocate({item.key: len(item.draft) for item in items}, len(items))
        drafting = self._drafting
        own = self._drafts.draft(items, rows, self._budget)
        drafting = self._drafting - drafting
        drafts = [item.draft[: rows.granted[item.key]] + own.get(item.key, ()) for item in items]
        told = [_told(item, rows.granted[item.key], own.get(item.key, ())) for item in items]
        fed = sum(1 + len(draft) for draft in drafts)
        ms = self._cost.forward(len(items), fed)
        seconds = drafting + ms / 1000
        self.steps += 1
        self.sessions += len(items)
        self.rows += fed
        self.busy += seconds

        def done() -> None:
            self._window.stepped(seconds)
            for item, draft, what in zip(items, drafts, told, strict=True):
                self._decided(item, draft, what, began, int(1000 * seconds))
            self._budget.saw(len(items), fed - len(items), ms)
            self._computing = False
            self._alarm.by(self.machine.next_tick())
            self._look()

        self._clock.at(seconds, done)

    def _decided(
        self, item: WorkItem, draft: tuple[int, ...], rows: DraftRows, began: float, ms: int
    ) -> None:
        now, identity = self._clock.now, item.identity
        tokens = self._texts[identity.seed, identity.temperature].decide(item.start, draft)
        judged = draft[: len(draft) - rows.drafted]
        right = tokens_right(judged, tokens)
        wrong = right < min(len(judged), len(tokens))
        self._budget.decided(item.key, len(tokens), right, wrong=wrong)
        self._window.answered(item.key, now)
        queue = max(0, int(1000 * (began - item.waiting_since)))
        self._do(self.machine.result(item, tokens, queue, ms, now, rows))

    def _call(self, sessions: int) -> None:
        """The draft's forward takes its time."""
        self.calls += 1
        self._drafting += self._cost.call(sessions) / 1000

    def _tick(self) -> None:
        due, now = self.machine.next_tick(), self._clock.now
        if due is not None and due <= now:
            self._do(self.machine.tick(now))
            due = self.machine.next_tick()
        self._alarm.by(due)


def _told(item: WorkItem, granted: int, own: tuple[int, ...]) -> DraftRows:
    """What the edge is told of the rows of its session."""
    return DraftRows(len(own), None if granted == len(item.draft) else granted)
