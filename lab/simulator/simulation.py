"""Answers of a device and a worker over a link, in simulated time, and what they cost.

The policy, both protocol machines, the payloads' encoding, the rules by which a worker gives rows out, drafts and
reads prompts, and the link are those of production; what draft and target say is recorded, and what they take is
measured.
"""

import random
from collections.abc import Callable, Sequence

from flexspec_mq.controller.estimators.worker import StatedTimes
from flexspec_mq.drafting.hybrid import HybridDrafter
from flexspec_mq.drafting.interface import Drafter
from flexspec_mq.drafting.prompt_lookup import PromptLookupDrafter
from flexspec_mq.errors import FlexSpecError
from lab.simulator.answers import Policies, Setting
from lab.simulator.channel import SimulatedMqtt
from lab.simulator.clock import SimulatedClock
from lab.simulator.cost import TargetForward
from lab.simulator.device import SimulatedDevice
from lab.simulator.recording import RecordedText, SimulatedText
from lab.simulator.replayed_drafter import Pace, ReplayedDrafter
from lab.simulator.worker import NAME, TIMED_ROWS, SimulatedWorker

DEVICE_PREFILL = 256
"""Tokens of a prompt that one forward of a device's draft reads."""
_SETTLES = 2.0
"""Seconds after an answer for its session to end at the worker."""
_LONGEST = 3600.0
"""Seconds of simulated time for an answer."""


def new_device(clock: SimulatedClock, setting: Setting, name: str, policies: Policies) -> SimulatedDevice:
    """A device of a setting, without its channel.

    Args:
        clock: clock of the simulation.
        setting: settings of the simulation.
        name: on topics.
        policies: makes the policy of each text.
    """
    recording, times = setting.recording, setting.times
    pace = Pace(times.device.call)
    drafter: Drafter | None = None
    if setting.drafts:
        drafter = ReplayedDrafter(recording, pace.spend, prefill=DEVICE_PREFILL)
        if setting.lookup:
            drafter = HybridDrafter(drafter, PromptLookupDrafter(max_context=recording.max_context))
    device = SimulatedDevice(
        clock,
        name,
        recording,
        policies,
        drafter=drafter,
        pace=pace,
        rng=random.Random(f"{setting.seed} {name}"),
        request=times.request / 1000,
    )
    alone, eight = (times.forward(TargetForward(1, 1 + rows)) for rows in (0, TIMED_ROWS))
    row = (eight - alone) / TIMED_ROWS
    own = (times.draft.token, times.draft.read) if setting.worker.drafts else ()
    stated = StatedTimes(*(ms / 1000 for ms in (alone, row, *own)))
    device.estimates.stated(NAME, stated, clock.now)
    return device


class Simulation:
    """A device, its worker and the way between them. Estimates of the device outlive its texts, as on a node.

    Args:
        setting: settings of the simulation.
        policies: policies of the device; of the others too, unless they have their own.
        others: policies of the other devices.
    """

    def __init__(self, setting: Setting, policies: Policies, others: Policies | None = None) -> None:
        self._setting = setting
        self._clock = SimulatedClock()
        self._replies: dict[str, Callable[..., None]] = {}
        self._worker = SimulatedWorker(
            self._clock,
            setting.times,
            setting.recording,
            setting.worker,
            lambda edge, message, qos: self._replies[edge](message, qos),
        )
        self._device = new_device(self._clock, setting, "edge", policies)
        self._channel = SimulatedMqtt(
            self._clock, self._device, self._worker, setting.link, setting.times.broker / 1000
        )
        self._device.channel = self._channel
        self._replies[self._device.name] = self._channel.answer
        for number in range(setting.others):
            self._begin_other(number, others or policies)
        if setting.others:
            self._until_time(self._clock.now + setting.settle)

    def answer(self, text: RecordedText, begins_s: float | None = None) -> SimulatedText:
        """Write a text.

        Args:
            text: text of the recording.
            begins_s: second of the channel at which it is asked for; None lets the channel go on.

        Raises:
            FlexSpecError: it does not end.
        """
        over = self.ask(text, begins_s)
        self._until(lambda: bool(over))
        self.settle()
        return over[0]

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return self._clock.now

    def ask(self, text: RecordedText, begins_s: float | None = None) -> list[SimulatedText]:
        """Ask for a text, without waiting for it.

        Args:
            text: text of the recording. The one before has ended.
            begins_s: see `answer`.

        Returns:
            What gets the text once it is written.
        """
        self._channel.begin(begins_s)
        over: list[SimulatedText] = []
        self._device.write(text, over.append)
        return over

    def step(self) -> None:
        """Carry out the next event."""
        self._clock.step()

    def settle(self) -> None:
        """Let the session of the newest text end at the worker."""
        clock, key = self._clock, (self._device.name, self._device.session)
        ends = clock.now + _SETTLES
        while key in self._worker.machine.sessions and clock.next <= ends:
            clock.step()

    def _begin_other(self, number: int, policies: Policies) -> None:
        """A device that writes one text after the other, for ever."""
        setting = self._setting
        device = new_device(self._clock, setting, f"other{number}", policies)
        channel = SimulatedMqtt(self._clock, device, self._worker, None, setting.times.broker / 1000)
        device.channel = channel
        self._replies[device.name] = channel.answer
        rng = random.Random(f"{setting.seed} texts {number}")

        def go_on(_written: SimulatedText | None = None) -> None:
            device.write(rng.choice(setting.recording.texts), go_on)

        self._clock.at(rng.uniform(0.0, setting.settle / 2), go_on)

    def _until(self, done: Callable[[], bool]) -> None:
        ends = self._clock.now + _LONGEST
        while not done():
            if not self._clock.step() or self._clock.now > ends:
                raise FlexSpecError("a simulated answer does not end")

    def _until_time(self, time: float) -> None:
        while self._clock.next <= time:
            self._clock.step()


def simulate(
    setting: Setting,
    policies: Policies,
    texts: Sequence[RecordedText] | None = None,
    begins_s: Sequence[float | None] | None = None,
    *,
    others: Policies | None = None,
) -> list[SimulatedText]:
    """Write texts one after the other.

    Args:
        setting: settings of the simulation.
        policies: makes the policy of each text.
        texts: texts of the recording; None is all.
        begins_s: second of the channel at which each text is asked for; None lets the channel go on.
        others: policies of the other sessions; None is `policies`.

    Raises:
        FlexSpecError: an answer does not end.
    """
    wanted = setting.recording.texts if texts is None else texts
    offsets = [None] * len(wanted) if begins_s is None else begins_s
    simulation = Simulation(setting, policies, others)
    return [simulation.answer(text, begins) for text, begins in zip(wanted, offsets, strict=True)]
