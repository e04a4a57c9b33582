"""A device in simulated time: the real protocol machine of an edge, and recorded drafts at the device's pace."""

import random
from collections.abc import Callable, Sequence
from typing import Protocol

from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.plan import Policy
from flexspec_mq.drafting.interface import Drafted, Drafter, DraftRequest
from flexspec_mq.protocol.edge.patience import Patience
from flexspec_mq.protocol.edge.session import EdgeSession, close_unknown
from flexspec_mq.protocol.edge.types import SessionRequest
from flexspec_mq.protocol.effects import Commit, Effect, Finish, FinishReason, Send
from lab.simulator.clock import Alarm, SimulatedClock
from lab.simulator.recording import RecordedText, Recording, SimulatedText
from lab.simulator.replayed_drafter import Pace
from lab.simulator.worker import VERSION
from schemas.messages import Error, Verdict

_WHOLE = (FinishReason.EOS, FinishReason.LENGTH)


class DeviceChannel(Protocol):
    """Carrier of a device's messages to its worker."""

    def send(self, send: Send) -> None:
        """Publish a message of the device's machine."""
        ...


class SimulatedDevice:
    """A device, which writes one text after the other.

    Args:
        clock: clock of the simulation.
        name: on topics.
        recording: recording of its texts.
        policies: makes the policy of each text.
        drafter: None drafts nothing.
        pace: pace of the drafter.
        rng: jitter of its timers.
        request: seconds that a request takes before its session begins.

    Attributes:
        channel: channel to its worker; set before the first text.
        written: the newest text.
        estimates: estimates of its node.
    """

    channel: DeviceChannel

    def __init__(
        self,
        clock: SimulatedClock,
        name: str,
        recording: Recording,
        policies: Callable[[], Policy],
        *,
        drafter: Drafter | None,
        pace: Pace,
        rng: random.Random,
        request: float = 0.0,
    ) -> None:
        self.name = name
        self.written: SimulatedText | None = None
        self._clock = clock
        self._recording = recording
        self._policies = policies
        self._drafter = drafter
        self._pace = pace
        self._rng = rng
        self._request = request
        self.estimates = NodeEstimates()
        # As long as those of a node: numbers from a random start.
        self._sessions = rng.randrange(2**31, 2**32 - 2**16)
        self._machine: EdgeSession | None = None
        self._patience: Patience | None = None
        self._tokens: list[int] = []
        self._drafting = False
        self.estimates.disconnects.link_up(clock.now)
        self._alarm = Alarm(clock, self._tick)
        self._ended: Callable[[SimulatedText], None] = _nobody

    @property
    def session(self) -> int:
        """Number of the newest text."""
        return self._sessions

    def write(self, text: RecordedText, ended: Callable[[SimulatedText], None]) -> None:
        """Ask for a text now; the one before has ended."""
        self._ended = ended
        self.written = SimulatedText(text, self._clock.now)
        if self._request:
            self._clock.at(self._request, lambda: self._begin(text))
        else:
            self._begin(text)

    def _begin(self, text: RecordedText) -> None:
        now = self._clock.now
        self._sessions += 1
        self._tokens = []
        request = SessionRequest(
            session=self._sessions,
            version=VERSION,
            identity=self._recording.identity(text),
            prompt=text.prompt,
        )
        machine = EdgeSession(
            request, self._policies(), self._rng, estimates=self.estimates, others=lambda _: False
        )
        self._machine, self._patience = machine, Patience(machine)
        self._do(machine, machine.start(now))

    # What its channel tells

    def receive(self, message: Verdict | Error) -> None:
        """A message has come. Messages of earlier texts are of no concern any more."""
        self.estimates.disconnects.received(self._clock.now)
        machine = self._machine
        if machine is not None and message.session == self._sessions:
            self._do(machine, machine.receive(message, self._clock.now))
        elif isinstance(message, Verdict):
            for send in close_unknown(message):
                self.channel.send(send)

    # How it is done

    def _do(self, machine: EdgeSession, effects: Sequence[Effect]) -> None:
        finish: Finish | None = None
        for effect in effects:
            if isinstance(effect, Send):
                self.channel.send(effect)
            elif isinstance(effect, Commit):
                self._tokens += effect.tokens
                if self.written is not None:
                    self.written.pieces.append((self._clock.now, len(effect.tokens)))
            elif isinstance(effect, Finish):
                finish = effect
        if finish is not None:
            self._finish(machine, finish)
        elif machine is self._machine and self._patience is not None:
            self._draft(machine)
            self._alarm.by(self._patience.next_tick())

    def _finish(self, machine: EdgeSession, finish: Finish) -> None:
        written = self.written
        assert written is not None
        self._machine = None
        if self._drafter is not None:
            self._drafter.free(self._sessions)
        if finish.reason not in _WHOLE:
            written.problem = f"{finish.reason}: {finish.error or ''}"
        elif tuple(self._tokens) != written.text.tokens:
            written.problem = "another text"
        written.counters = machine.counters
        written.ended = self._clock.now
        self._ended(written)

    def _draft(self, machine: EdgeSession) -> None:
        """The drafter: one forward, then ask again."""
        wanted = machine.draft_request()
        if self._drafting or wanted is None:
            return
        if self._drafter is None or not self._drafter.fits(wanted.context):
            self._do(machine, machine.draft_stopped(wanted.start, wanted.digest, self._clock.now))
            return
        self._drafting = True
        self._pace.spent = 0.0
        (found,) = self._drafter.draft([wanted])
        spent = self._pace.spent

        def done() -> None:
            self._drafting = False
            if machine is self._machine:
                self._drafted(machine, wanted, found)
            if self._machine is not None:
                self._draft(self._machine)

        self._clock.at(spent, done)

    def _drafted(self, machine: EdgeSession, request: DraftRequest, tokens: Drafted) -> None:
        """Hand tokens to the session, as long as each follows the one before and is wanted, as `EdgeNode` does."""
        now = self._clock.now
        if tokens is None:
            return
        if not tokens:
            self._do(machine, machine.draft_stopped(request.start, request.digest, now))
        before = 0
        for place, token in enumerate(tokens):
            if machine is not self._machine:
                return
            if place:
                following = machine.draft_request()
                if following is None or machine.counters.drafted == before:
                    return
                request = following
            before = machine.counters.drafted
            effects = machine.drafted(request.start, request.digest, token, now)
            self._drafting = True  # nothing more is asked of the drafter until all tokens are taken
            self._do(machine, effects)
            self._drafting = False

    def _tick(self) -> None:
        machine, patience, now = self._machine, self._patience, self._clock.now
        if machine is None or patience is None:
            return
        due = patience.next_tick()
        if due <= now:
            self._do(machine, patience.tick(now))
        else:
            self._alarm.by(due)


def _nobody(_written: SimulatedText) -> None:
    """Nobody waits for a text yet."""
