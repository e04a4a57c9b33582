"""Training from nothing to weights: episodes, and fits in between that say where the next ones go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flexspec_mq.controller.rl import ACTIONS, Network
from flexspec_mq.errors import UsageError
from lab.policy_training.branching import branch
from lab.policy_training.episodes import drawn_episode
from lab.policy_training.learner import Learner
from lab.policy_training.samples import Samples
from lab.simulator.environment import PlanningEnvironment

_FIT_EVERY = 25
"""Episodes between fits."""
_STEPS = 300
"""Steps of a fit, and of the last one, which begins anew and makes what is written."""
_FIRST = 25
"""Episodes in which the way to a branch is by random actions alone."""


def train_policy(seed: int, episodes: int, tell: Callable[[int], None]) -> tuple[Network, str]:
    """Train the policy `rl` in the simulator.

    Args:
        seed: seed of all chance; equal seeds and numbers of episodes give equal weights.
        episodes: how many.
        tell: called with the number of episodes after each.

    Returns:
        The network, and how it does on the episodes that it was not trained on, in words.

    Raises:
        UsageError: there were too few episodes.
    """
    samples, learner = Samples.none(), Learner(seed)
    environment = PlanningEnvironment(drawn_episode)
    for number in range(episodes):
        act = _random_action(seed, number) if number < _FIRST else _best_action(learner.network())
        # Seeds of episodes are apart from each other, whatever the training's own.
        samples.add(branch(environment, (seed << 24) + number, act), number)
        training = samples.part(held_out=False)
        if (number + 1) % _FIT_EVERY == 0 and len(training.numbers):
            learner.fit(training, _STEPS)
        tell(number + 1)
    training, held_out = samples.part(held_out=False), samples.part(held_out=True)
    if not len(training.numbers):
        raise UsageError("nothing was learned from so few episodes", hint=f"{_FIT_EVERY} are the least")
    learner = Learner(seed)
    learner.fit(training, _STEPS)
    single = held_out.excess().mean(axis=0).min() if len(held_out.numbers) else np.nan
    return learner.network(), (
        f"held out, beyond the best in hindsight: network {learner.excess(held_out):.1%}, "
        f"best single action {single:.1%}"
    )


def _random_action(seed: int, number: int) -> Callable[[Sequence[float]], int]:
    action = int(np.random.default_rng([seed, 3, number]).integers(0, len(ACTIONS)))
    return lambda _numbers: action


def _best_action(network: Network) -> Callable[[Sequence[float]], int]:
    def act(numbers: Sequence[float]) -> int:
        scores = network.scores(numbers)
        return scores.index(max(scores))

    return act
