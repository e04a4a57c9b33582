"""Training from nothing to weights: episodes, and fits in between that say where the next ones go."""

import random
from collections.abc import Callable, Sequence
from math import exp, nan

from flexspec_mq.controller.rl import ACTIONS, FEATURES, Network
from flexspec_mq.errors import UsageError
from lab.policy_training.branching import Act, Row, branch
from lab.policy_training.episodes import drawn_setting
from lab.policy_training.learner import excess_of, fit

_FIT_EVERY = 25
"""Episodes between fits; before the first one, the way to a branch is by one random action."""
_STEPS = 300
"""Steps of a fit."""
_HELD_OUT = 10
"""Number of episodes of which one is not trained on."""
_READING, _REMAINING = FEATURES.index("reading for own drafts"), FEATURES.index("remaining")


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
    training: list[Row] = []
    held_out: list[Row] = []
    network: Network | None = None
    for number in range(episodes):
        # Seeds of episodes are apart from each other, whatever the training's own.
        own = (seed << 24) + number
        rows = branch(
            drawn_setting(own), own, _random_action(own) if network is None else network_action(network)
        )
        rows = [row for row in rows if min(row.seconds) > 0.0]
        if number % _HELD_OUT == _HELD_OUT - 1:
            held_out += [row for row in rows if row.branched]
        else:
            training += [row for row in rows if row.branched or _fair(row)]
        if (number + 1) % _FIT_EVERY == 0 and training:
            network = fit(training, seed, _STEPS)
        tell(number + 1)
    if not training:
        raise UsageError("nothing was learned from so few episodes", hint=f"{_FIT_EVERY} are the least")
    network = fit(training, seed, _STEPS)
    beyond, single = excess(network, held_out), nan
    if held_out:
        single = float(excess_of(held_out).mean(0).min())
    return network, (
        f"held out, beyond the best in hindsight: network {beyond:.1%}, best single action {single:.1%}"
    )


def excess(network: Network, rows: Sequence[Row]) -> float:
    """Mean excess of the actions with the highest scores."""
    act = network_action(network)
    chosen = (
        [float(row[act(one.numbers)]) for one, row in zip(rows, excess_of(rows), strict=True)] if rows else []
    )
    return sum(chosen) / len(chosen) if chosen else nan


def network_action(network: Network) -> Act:
    """Function to the action with the highest score."""

    def act(numbers: Sequence[float]) -> int:
        scores = network.scores(numbers)
        return scores.index(max(scores))

    return act


def _fair(row: Row) -> bool:
    """Whether a later row counts: there, letting the worker draft may count as having read a prompt that it had not."""
    return row.numbers[_READING] * exp(row.numbers[_REMAINING]) < 1.0


def _random_action(seed: int) -> Act:
    action = random.Random(f"action {seed}").randrange(len(ACTIONS))
    return lambda _numbers: action
