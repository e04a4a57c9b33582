"""The predictor's factors, fitted to what actions took beside what the closed form expected of them."""

from __future__ import annotations

import numpy as np

from flexspec_mq.controller.actions import ACTIONS
from flexspec_mq.controller.correction import Correction, terms
from flexspec_mq.policy_training.samples import Array, Samples

_RIDGE = 1e-2
"""Of a weight's square, for each row: features count in their deviations."""


def fit_correction(samples: Samples) -> Correction:
    """By ridge regression of the logarithm of the factor.

    Only differences between the actions of one state count, as they alone decide what is chosen: the mean over a
    state's actions is taken out of both sides, and with it most of the chance of its text.
    """
    factors = np.log(np.maximum(samples.seconds, 1e-6)) - np.log(samples.expected)
    factors -= factors.mean(axis=1, keepdims=True)
    of = np.array([terms(action.choice, worker=action.worker) for action in ACTIONS], np.float64)
    of -= of.mean(axis=0)
    mean, deviation = samples.numbers.mean(axis=0), samples.numbers.std(axis=0) + 1e-2
    inputs = np.concatenate(
        [(samples.numbers - mean) / deviation, np.ones((len(factors), 1))], axis=1, dtype=np.float64
    )
    # Row (state, action) of the design is the product of the state's inputs and the action's terms.
    squares = np.kron(of.T @ of, inputs.T @ inputs)
    targets = of.T @ factors.T.astype(np.float64) @ inputs
    ridge = _RIDGE * len(factors) * np.eye(len(squares))
    found = np.linalg.solve(squares + ridge, targets.ravel()).reshape(targets.shape)
    weights = found[:, :-1] / deviation
    bias = found[:, -1] - weights @ mean
    rows: Array = np.concatenate([weights, bias[:, None]], axis=1)
    return Correction(tuple(tuple(map(float, row)) for row in rows))
