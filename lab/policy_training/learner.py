"""A network that learns which action costs least: its scores are likelihoods, whose expected cost is descended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from flexspec_mq.controller.rl import ACTIONS, FEATURES, FORM, Network
from lab.policy_training.samples import Array, Samples

_UNITS = 16
_RATE = 0.01
_BATCH = 1024
_FIRST = 0.5
"""Share of a batch in which actions have just parted; of these states there are few, and they are all alike."""
_MOST = 2.0
"""An action that takes longer than the best by more than this is as bad as one that takes so much."""
_SPREAD = 0.003
"""Worth of a nat of likelihoods' entropy, as an excess: so that nothing is ruled out early."""
_DECAY = 1.0
"""Decay of weights in a step, for a rate of 1: there are few episodes for so many weights."""
_DECAYING = "hidden", "out"
_MOMENTUM, _SQUARES = 0.9, 0.999


class Learner:
    """Weights, and Adam's moments of them.

    Args:
        seed: seed of the first weights and of the order of rows.

    Attributes:
        weights: arrays by name; numbers are brought to mean 0 and deviation 1 first.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        inputs, outputs = len(FEATURES), len(ACTIONS)
        self.weights: dict[str, Array] = {
            "hidden": (rng.standard_normal((inputs, _UNITS)) / np.sqrt(inputs)).astype(np.float32),
            "hidden_bias": np.zeros(_UNITS, np.float32),
            "out": (rng.standard_normal((_UNITS, outputs)) / np.sqrt(_UNITS) / 10).astype(np.float32),
            "bias": np.zeros(outputs, np.float32),
            "mean": np.zeros(inputs, np.float32),
            "deviation": np.ones(inputs, np.float32),
        }
        self._moments: dict[str, Array] = {}
        self._steps = 0
        self._seed = seed

    def fit(self, samples: Samples, steps: int) -> None:
        """Take some steps of Adam over rows that are drawn; the last one's rate is a tenth of the first one's.

        Args:
            samples: rows to train on; the first ones give mean and deviation of each feature, for good.
            steps: how many.
        """
        if not self._steps:
            self.weights["mean"] = samples.numbers.mean(axis=0)
            self.weights["deviation"] = samples.numbers.std(axis=0) + np.float32(1e-2)
        excess = np.minimum(samples.excess(), _MOST)
        rng = np.random.default_rng([self._seed, 2, self._steps])
        first, later = (np.flatnonzero(samples.branched == one) for one in (1.0, 0.0))
        kinds = ((first, _FIRST), (later, 1 - _FIRST)) if len(later) else ((first, 1.0),)
        for step in range(steps):
            rows = np.concatenate([rng.choice(which, int(_BATCH * share)) for which, share in kinds])
            gradients = self._gradients(samples.numbers[rows], excess[rows])
            self._adam(gradients, _RATE * 10 ** (-step / steps))

    def scores(self, numbers: Array) -> Array:
        """Scores of rows of features."""
        return self._pass(numbers)[2]

    def excess(self, samples: Samples) -> float:
        """Mean excess of the actions with the highest scores."""
        if not len(samples.numbers):
            return float("nan")
        best = self.scores(samples.numbers).argmax(axis=1)
        return float(samples.excess()[np.arange(len(best)), best].mean())

    def network(self) -> Network:
        """As devices take it: of features as they are."""
        weights = self.weights
        hidden = weights["hidden"] / weights["deviation"][:, None]
        bias = weights["hidden_bias"] - weights["mean"] @ hidden
        rows = np.concatenate([hidden, bias[None]]).T
        return Network(
            tuple(tuple(map(float, row)) for row in rows),
            tuple(tuple(map(float, row)) for row in weights["out"]),
            tuple(map(float, weights["bias"])),
        )

    def _pass(self, numbers: Array) -> tuple[Array, Array, Array]:
        weights = self.weights
        inputs = (numbers - weights["mean"]) / weights["deviation"]
        units = np.maximum(inputs @ weights["hidden"] + weights["hidden_bias"], 0)
        return inputs, units, units @ weights["out"] + weights["bias"]

    def _gradients(self, numbers: Array, excess: Array) -> dict[str, Array]:
        inputs, units, scores = self._pass(numbers)
        likely = np.exp(scores - scores.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        value = excess + _SPREAD * np.log(likely + 1e-8)
        by_score = likely * (value - (likely * value).sum(axis=1, keepdims=True)) / len(excess)
        by_unit = (by_score @ self.weights["out"].T) * (units > 0)
        return {
            "out": units.T @ by_score,
            "bias": by_score.sum(axis=0),
            "hidden": inputs.T @ by_unit,
            "hidden_bias": by_unit.sum(axis=0),
        }

    def _adam(self, gradients: Mapping[str, Array], rate: float) -> None:
        self._steps += 1
        for name, gradient in gradients.items():
            one, two = (f"moment {number} {name}" for number in (1, 2))
            zero = np.zeros_like(gradient)
            self._moments[one] = _MOMENTUM * self._moments.get(one, zero) + (1 - _MOMENTUM) * gradient
            self._moments[two] = _SQUARES * self._moments.get(two, zero) + (1 - _SQUARES) * gradient**2
            mean = self._moments[one] / (1 - _MOMENTUM**self._steps)
            square = self._moments[two] / (1 - _SQUARES**self._steps)
            if name in _DECAYING:
                self.weights[name] = self.weights[name] * np.float32(1 - rate * _DECAY)
            self.weights[name] = self.weights[name] - (rate * mean / (np.sqrt(square) + 1e-8)).astype(
                np.float32
            )


def network_text(network: Network) -> str:
    """The file of a network, as `read_network` reads it."""

    def short(row: Sequence[float]) -> list[float]:
        return [float(f"{value:.4g}") for value in row]

    return json.dumps(
        {
            "form": FORM,
            "features": FEATURES,
            "actions": [action.name for action in ACTIONS],
            "hidden": [short(row) for row in network.hidden],
            "out": [short(row) for row in network.out],
            "bias": short(network.bias),
        },
        separators=(",", ":"),
    )
