"""Devices in simulated time: the real protocol machine of an edge, and recorded drafts at a device's pace."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.capacity.virtual_worker import VERSION, VirtualWorker
from benchmarks.replay.figures import TextRun
from benchmarks.replay.recording import RecordedText, Recording
from edge_node.settings import PlanOptions
from flexspec_mq.controller.controller import Controller
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import Commit, Effect, Finish, FinishReason, Send
from flexspec_mq.simulator.clock import Alarm, SimulatedClock
from schemas.messages import Error, Verdict

_WHOLE = (FinishReason.EOS, FinishReason.LENGTH)


class VirtualDevice:
    """One device, which writes one text after the other.

    Args:
        clock: of the simulation.
        number: of its client.
        recording: of its texts.
        plan: of its drafts.
        token: seconds that a drafted token takes.
        way: seconds that a message takes, one way.
        rng: jitter of its timers.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        number: int,
        recording: Recording,
        plan: PlanOptions,
        *,
        token: float,
        way: float,
        rng: random.Random,
    ) -> None:
        self._clock = clock
        self._number = number
        self._recording = recording
        self._plan = plan
        self._token = token
        self._way = way
        self._rng = rng
        self._controller = Controller()
        self._sessions = 0
        self._text: RecordedText | None = None
        self._machine: EdgeSession | None = None
        self._written: list[int] = []
        self._pieces: list[tuple[float, int]] = []
        self._due = 0.0
        self._drafting = False
        self._alarm = Alarm(clock, self._tick)
        self._ended: Callable[[TextRun], None] | None = None
        self.worker: VirtualWorker | None = None

    @property
    def name(self) -> str:
        """On topics."""
        return f"e{self._number}"

    def write(self, text: RecordedText, ended: Callable[[TextRun], None]) -> None:
        """Ask for a text now; the one before has ended."""
        now = self._clock.now
        self._sessions += 1
        self._text, self._ended, self._due = text, ended, now
        self._written, self._pieces = [], []
        request = SessionRequest(
            session=self._sessions,
            version=VERSION,
            identity=self._recording.identity(text),
            prompt=text.prompt[-1:],  # all before it is read elsewhere
        )
        self._machine = EdgeSession(request, self._plan.new_policy(), self._rng, controller=self._controller)
        self._do(self._machine, self._machine.start(now))

    def receive(self, message: Verdict | Error) -> None:
        """A message has come. Those of earlier texts are of no concern any more."""
        machine = self._machine
        if machine is not None and message.session == self._sessions:
            self._do(machine, machine.receive(message, self._clock.now))

    def _do(self, machine: EdgeSession, effects: Sequence[Effect]) -> None:
        finish: Finish | None = None
        for effect in effects:
            if isinstance(effect, Send):
                self._clock.at(self._way, partial(self._arrives, effect))
            elif isinstance(effect, Commit):
                self._written += effect.tokens
                self._pieces.append((self._clock.now, len(effect.tokens)))
            else:
                finish = effect
        if finish is not None:
            self._finish(finish)
        elif machine is self._machine:
            self._draft(machine)
            self._alarm.by(machine.next_tick())

    def _arrives(self, send: Send) -> None:
        assert self.worker is not None  # noqa: S101  set before the first text
        version = VERSION if send.to_worker is None else None
        self.worker.receive(self.name, send.message, send.qos, version)

    def _finish(self, finish: Finish) -> None:
        text, ended, machine = self._text, self._ended, self._machine
        assert text is not None  # noqa: S101  it is being written
        assert ended is not None  # noqa: S101
        assert machine is not None  # noqa: S101
        self._machine = None
        problem = ""
        if finish.reason not in _WHOLE:
            problem = f"{finish.reason}: {finish.error or ''}"
        elif tuple(self._written) != text.tokens:
            problem = "another text"
        drafted = machine.counters.proposed
        ended(TextRun(self._number, self._due, tuple(self._pieces), problem, drafted))

    def _draft(self, machine: EdgeSession) -> None:
        """The drafter: one token, then ask again."""
        wanted = machine.draft_request()
        if self._drafting or wanted is None:
            return
        self._drafting = True
        text = self._text
        assert text is not None  # noqa: S101
        proposal, start, digest = text.proposal(wanted.start), wanted.start, wanted.digest

        def done() -> None:
            self._drafting = False
            if machine is self._machine:
                self._do(machine, machine.drafted(start, digest, proposal, self._clock.now))
            elif self._machine is not None:
                self._draft(self._machine)

        self._clock.at(self._token, done)

    def _tick(self) -> None:
        machine, now = self._machine, self._clock.now
        if machine is None:
            return
        due = machine.next_tick()
        if due is not None and due <= now:
            self._do(machine, machine.tick(now))
        else:
            self._alarm.by(due)
