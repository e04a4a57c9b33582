"""Planning as a task to learn: texts in simulated time, by Gymnasium's conventions, without that package.

An action holds for a few tokens. The reward is the time that they took, negative and in forwards of the target, so an
episode's return is minus the time of its texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flexspec_mq.controller.action_space import ACTIONS, FEATURES, MACRO, features
from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.controller.rl import ActionPolicy
from flexspec_mq.errors import FlexSpecError, UsageError
from lab.simulator.answers import Setting
from lab.simulator.cost import TargetForward
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


class PlanningEnvironment:
    """Planning of a device, a few tokens a step. An observation has the numbers that `FEATURES` names.

    Args:
        draw: makes an episode from a seed; equal seeds must give equal ones.

    Attributes:
        actions: how many there are; see `ACTIONS` for what they are.
        size: numbers of an observation.
    """

    actions = len(ACTIONS)
    size = len(FEATURES)

    def __init__(self, draw: Callable[[int], Episode]) -> None:
        self._draw = draw
        self._seeds = random.Random(0)
        self._held = _Held()
        self._seen = Observation()
        self._simulation: Simulation | None = None
        self._episode: Episode
        self._over: list[SimulatedText] = []
        self._text = 0
        self._idle = 0.0
        self._ended = 0.0
        self._forward = 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[list[float], dict[str, Any]]:
        """Begin an episode, and go on to the first time that there is something to choose from.

        Args:
            seed: seed of the episode; None takes the next one of a row that the last seed began.
            options: none are known.

        Returns:
            The observation; and `text`, number of the text that is being written, `length`, tokens that it will
            have, `committed`, tokens so far, `at`, seconds in which texts were waited for, `ended`, those of them
            when the newest text ended, and `seen`, the observation in full.

        Raises:
            UsageError: options were given.
            FlexSpecError: nothing is ever known.
        """
        if options:
            raise UsageError(f"the environment knows no option {next(iter(options))!r}")
        if seed is None:
            seed = self._seeds.getrandbits(32)
        else:
            self._seeds = random.Random(seed)
        episode = self._episode = self._draw(seed)
        self._held = _Held()
        self._forward = episode.setting.times.forward(TargetForward(1, 1)) / 1000
        self._simulation = Simulation(episode.setting, lambda: _HeldPolicy(episode.base, self._held))
        self._text, self._idle, self._ended = 0, self._simulation.now, 0.0
        self._over = self._simulation.ask(episode.texts[0])
        self._go_on(0)
        if self._terminated or self._held.seen is None:
            raise FlexSpecError("an episode ended before anything was known")
        self._seen = self._held.seen
        return features(self._seen), self._info()

    def step(self, action: int) -> tuple[list[float], float, bool, bool, dict[str, Any]]:
        """Plan by an action until a few tokens more are there, or the text ends.

        Returns:
            The observation, the reward, whether all texts are written, whether the episode took too long, and what
            `reset` tells besides.

        Raises:
            UsageError: there is no such action.
            FlexSpecError: there is no episode, or it is over.
        """
        if self._simulation is None or self._terminated:
            raise FlexSpecError("an episode begins with reset")
        if not 0 <= action < self.actions:
            raise UsageError(f"action {action} is not between 0 and {self.actions - 1}")
        self._held.action = action
        began = self._spent
        self._go_on(self._seen.committed + MACRO)
        self._seen = self._held.seen or self._seen
        truncated = not self._terminated and self._simulation.now > _LONGEST
        reward = (began - self._spent) / self._forward
        return features(self._seen), reward, self._terminated, truncated, self._info()

    @property
    def _terminated(self) -> bool:
        return bool(self._over) and self._text + 1 >= len(self._episode.texts)

    @property
    def _spent(self) -> float:
        """Seconds in which a text was waited for."""
        assert self._simulation is not None
        return self._simulation.now - self._idle

    def _info(self) -> dict[str, Any]:
        return {
            "text": self._text,
            "length": len(self._episode.texts[self._text].tokens),
            "committed": self._seen.committed,
            "at": self._spent,
            "ended": self._ended,
            "seen": self._seen,
        }

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
