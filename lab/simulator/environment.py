"""Planning as a task to learn: texts in simulated time. An action holds for a few tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.rl import ACTIONS, MACRO, ActionPolicy
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.simulator.answers import Setting
from lab.simulator.recording import RecordedText, SimulatedText
from lab.simulator.simulation import Simulation

_LONGEST = 1800.0
"""Simulated seconds after which an episode is cut off."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Parts of an episode.

    Attributes:
        setting: settings of the simulation.
        texts: written one after the other, at least one.
        base: plan that the policy starts from.
    """

    setting: Setting
    texts: Sequence[RecordedText]
    base: Plan = Plan(ahead=8, qos=1, worker_draft=8)  # noqa: RUF009  it is frozen


@dataclass(slots=True)
class _Held:
    """The action, and the newest observation of the text that is being written; None until anything is known."""

    action: int = 0
    seen: Observation | None = None


class _HeldPolicy(ActionPolicy):
    """Does as it is told, at any time."""

    def __init__(self, base: Plan, held: _Held) -> None:
        super().__init__(base, hold=0)
        self._held = held

    def act(self, seen: Observation, able: Sequence[int]) -> int:  # noqa: ARG002  episodes allow all of them
        self._held.seen = seen
        return self._held.action


@dataclass(frozen=True, slots=True)
class Step:
    """Place of an episode at which an action is chosen, or its end.

    Attributes:
        text: number of the text that is being written.
        length: tokens that it will have.
        at: seconds so far in which texts were waited for.
        ended: seconds of these when the newest text ended.
        seen: newest observation.
        over: whether all texts are written.
        cut: whether the episode took too long.
    """

    text: int
    length: int
    at: float
    ended: float
    seen: Observation
    over: bool
    cut: bool


class PlanningEnvironment:
    """Planning of a device, a few tokens a step.

    Args:
        draw: makes an episode from a seed; equal seeds must give equal ones.
    """

    def __init__(self, draw: Callable[[int], Episode]) -> None:
        self._draw = draw
        self._held = _Held()
        self._seen = Observation()
        self._simulation: Simulation | None = None
        self._episode: Episode
        self._over: list[SimulatedText] = []
        self._text = 0
        self._idle = 0.0
        self._ended = 0.0

    def reset(self, seed: int) -> Step:
        """Begin an episode, and go on to the first time that there is something to choose from.

        Raises:
            FlexSpecError: nothing is ever known.
        """
        episode = self._episode = self._draw(seed)
        self._held = _Held()
        self._simulation = Simulation(episode.setting, lambda: _HeldPolicy(episode.base, self._held))
        self._text, self._idle, self._ended = 0, self._simulation.now, 0.0
        self._over = self._simulation.ask(episode.texts[0])
        self._go_on(0)
        if self._terminated or self._held.seen is None:
            raise FlexSpecError("an episode ended before anything was known")
        return self._step()

    def step(self, action: int) -> Step:
        """Plan by an action until a few tokens more are there, or the text ends.

        Raises:
            UsageError: there is no such action.
            FlexSpecError: there is no episode, or it is over.
        """
        if self._simulation is None or self._terminated:
            raise FlexSpecError("an episode begins with reset")
        if not 0 <= action < len(ACTIONS):
            raise UsageError(f"action {action} is not between 0 and {len(ACTIONS) - 1}")
        self._held.action = action
        self._go_on(self._seen.committed + MACRO)
        return self._step()

    @property
    def _terminated(self) -> bool:
        return bool(self._over) and self._text + 1 >= len(self._episode.texts)

    @property
    def _spent(self) -> float:
        """Seconds in which a text was waited for."""
        assert self._simulation is not None
        return self._simulation.now - self._idle

    def _step(self) -> Step:
        assert self._simulation is not None
        self._seen = self._held.seen or self._seen
        return Step(
            text=self._text,
            length=len(self._episode.texts[self._text].tokens),
            at=self._spent,
            ended=self._ended,
            seen=self._seen,
            over=self._terminated,
            cut=not self._terminated and self._simulation.now > _LONGEST,
        )

    def _go_on(self, committed: int) -> None:
        """Until so many tokens of the text are there and anything is known, or all is over."""
        simulation, held = self._simulation, self._held
        assert simulation is not None
        while simulation.now <= _LONGEST:
            if not self._over:
                if held.seen is not None and held.seen.committed >= committed:
                    return
                simulation.step()
                continue
            self._ended = self._spent
            if self._terminated:
                return
            ended = simulation.now
            simulation.settle()
            self._idle += simulation.now - ended
            self._text += 1
            held.seen, committed = None, 0
            self._over = simulation.ask(self._episode.texts[self._text])
