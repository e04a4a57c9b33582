"""Training from nothing to files: episodes, fits in between, and a state to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flexspec_mq.daemon.files import whole
from flexspec_mq.errors import UsageError
from lab.policy_training.branching import branch
from lab.policy_training.episodes import drawn_episode
from lab.policy_training.history import COLUMNS, Line, write_history
from lab.policy_training.learner import Learner, network_text
from lab.policy_training.samples import Array, Samples
from lab.simulator.environment import PlanningEnvironment

_FIT_EVERY = 25
"""Episodes between fits."""
_STEPS = 300
"""Steps of a fit."""
_LAST_STEPS = 300
"""Steps of the last one, which begins anew and makes what is written."""
_FIRST = 25
"""Episodes in which the way to a branch is by random actions alone."""


@dataclass(frozen=True, slots=True)
class TrainingFiles:
    """Files of a training, all in one folder: weights, state and history.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    @property
    def network(self) -> Path:
        """Weights of `rl`."""
        return self.folder / "rl.json"

    @property
    def state(self) -> Path:
        """State that resuming needs."""
        return self.folder / "state.npz"

    @property
    def history(self) -> Path:
        """A line for every fit."""
        return self.folder / "history.csv"


class PolicyTraining:
    """Episodes and what was learned from them.

    Args:
        seed: seed of all chance. Equal seeds and budgets give equal weights, however often a training was resumed.

    Attributes:
        episodes: so far.
        history: a line for each fit.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.episodes = 0
        self.history: list[Line] = []
        self._samples = Samples.none()
        self._learner = Learner(seed)
        self._environment = PlanningEnvironment(drawn_episode)

    def run(self, episodes: int, saved: Callable[[], None], stop: Callable[[], bool]) -> bool:
        """Go on up to a number of episodes; `saved` is called after each fit. False if it was stopped before."""
        while self.episodes < episodes:
            if stop():
                return False
            # Seeds of episodes are apart from each other, whatever the training's own.
            number = (self.seed << 24) + self.episodes
            self._samples.add(branch(self._environment, number, self._act()), self.episodes)
            self.episodes += 1
            if self.episodes % _FIT_EVERY == 0:
                self._fit()
                saved()
        return True

    def _act(self) -> Callable[[Sequence[float]], int]:
        if self.episodes < _FIRST:
            rng = np.random.default_rng([self.seed, 3, self.episodes])
            action = int(rng.integers(0, PlanningEnvironment.actions))
            return lambda _numbers: action
        network = self._learner.network()

        def act(numbers: Sequence[float]) -> int:
            scores = network.scores(numbers)
            return scores.index(max(scores))

        return act

    def _fit(self) -> None:
        training, held_out = self._samples.part(held_out=False), self._samples.part(held_out=True)
        if not len(training.numbers):
            return
        reached = self._learner.fit(training, _STEPS)
        excess = held_out.excess()
        values = (
            self.episodes,
            len(self._samples.numbers),
            reached,
            self._learner.excess(held_out),
            excess.mean(axis=0).min() if len(excess) else np.nan,
        )
        self.history.append({name: float(value) for name, value in zip(COLUMNS, values, strict=True)})

    def write(self, files: TrainingFiles) -> None:
        """The weights that were learned, after a last fit from the beginning.

        Raises:
            UsageError: there were too few episodes.
        """
        training = self._samples.part(held_out=False)
        if not len(training.numbers):
            raise UsageError("nothing was learned from so few episodes", hint=f"{_FIT_EVERY} are the least")
        learner = Learner(self.seed)
        learner.fit(training, _LAST_STEPS)
        with whole(files.network) as part:
            part.write_text(network_text(learner.network()) + "\n", "utf-8")

    def save(self, files: TrainingFiles) -> None:
        """State and history."""
        known = {f"sample {name}": array for name, array in self._samples.arrays().items()}
        learned = {f"learner {name}": array for name, array in self._learner.arrays().items()}
        lines = np.array([[line[name] for name in COLUMNS] for line in self.history])
        numbers = np.array([self.seed, self.episodes])
        with whole(files.state) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, numbers=numbers, history=lines, **known, **learned)
        write_history(files.history, self.history)

    def load(self, files: TrainingFiles) -> None:
        """Go on from a state.

        Raises:
            UsageError: it cannot be read, or is of another seed.
        """
        try:
            with np.load(files.state, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
            seed, self.episodes = (int(one) for one in arrays["numbers"])
            self._samples = Samples.of(_named(arrays, "sample "))
            self._learner.load(_named(arrays, "learner "))
            self.history = [dict(zip(COLUMNS, map(float, line), strict=True)) for line in arrays["history"]]
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"the state {files.state} cannot be read: {error}", hint="remove it to begin anew"
            ) from error
        if seed != self.seed:
            raise UsageError(
                f"{files.state} is of seed {seed}", hint="give that seed, or name another folder"
            )


def _named(arrays: Mapping[str, Array], begins: str) -> dict[str, Array]:
    return {name.removeprefix(begins): array for name, array in arrays.items() if name.startswith(begins)}
