"""The predictor's factors, fitted to what actions took beside what the closed form expected of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import exp

import numpy as np

from flexspec_mq.controller.actions import ACTIONS
from flexspec_mq.controller.choices import forecast
from flexspec_mq.controller.correction import TERMS, Correction, terms
from flexspec_mq.controller.features import FEATURES
from flexspec_mq.controller.forecast import Pace
from lab.policy_training.samples import Array, Samples

_RIDGE = 0.1
"""Of a weight's square, for each row: features count in their deviations."""
_BATCH = 512
_NEAR = 0.3
"""An action that is expected to take longer than the best by this share weighs 1/e: what is never chosen need not be
foretold. What it took does not decide that: the lucky ones would weigh more."""


def expected(numbers: Array) -> Array:
    """What the closed form expects of each action, up to a unit of time for each row.

    Args:
        numbers: (rows, features), of states.

    Returns:
        (rows, actions). What a worker adds to a device's drafts is left out.
    """
    return np.array(
        [_expected(dict(zip(FEATURES, map(float, row), strict=True))) for row in numbers], np.float32
    )


def _expected(state: Mapping[str, float]) -> list[float]:
    """In forwards; acceptance is told by groups of places."""
    acceptance = (
        state["acceptance, first place"],
        *(state["acceptance, next three"],) * 3,
        state["acceptance, behind"],
    )
    free = Pace(exp(state["round trip"]), 1.0, exp(state["row"]), exp(state["draft's token"]), acceptance)
    waiting = replace(free, wait=exp(state["queue"]))
    own = exp(state["worker's own token"]) + state["reading for own drafts"]
    return [
        own
        if action.worker and not action.choice.length
        else forecast(action.choice, free if action.choice.ahead else waiting).seconds
        for action in ACTIONS
    ]


def fit_correction(samples: Samples) -> Correction:
    """By weighted ridge regression of the logarithm of the factor.

    Only differences between the actions of one state count, as they alone decide what is chosen: the mean over a
    state's actions is taken out of both sides, and with it most of the chance of its text.
    """
    rows = len(samples.numbers)
    foreseen = expected(samples.numbers)
    factors = np.log(np.maximum(samples.seconds, 1e-6)) - np.log(foreseen)
    weights = np.exp((1 - foreseen / foreseen.min(axis=1, keepdims=True)) / _NEAR)
    shares = weights / weights.sum(axis=1, keepdims=True)
    factors = factors - (shares * factors).sum(axis=1, keepdims=True)
    kinds = np.array([terms(action.choice, worker=action.worker) for action in ACTIONS], np.float32)
    of = kinds[None] - (shares @ kinds)[:, None]
    mean, deviation = samples.numbers.mean(axis=0), samples.numbers.std(axis=0) + 1e-2
    inputs = np.concatenate([(samples.numbers - mean) / deviation, np.ones((rows, 1), np.float32)], axis=1)
    size = len(TERMS) * inputs.shape[1]
    squares, targets = np.zeros((size, size)), np.zeros(size)
    for first in range(0, rows, _BATCH):
        part = slice(first, first + _BATCH)
        # What a factor depends on is each product of a term of the action and an input of the state.
        design = np.einsum("nat,ni->nati", of[part], inputs[part]).reshape(-1, size)
        weighted = design * weights[part].reshape(-1, 1)
        squares += weighted.T @ design
        targets += weighted.T @ factors[part].reshape(-1)
    squares += _RIDGE * weights.sum() * np.eye(size)
    found = np.linalg.solve(squares, targets).reshape(len(TERMS), -1)
    slopes = found[:, :-1] / deviation
    bias = found[:, -1] - slopes @ mean
    return Correction(
        tuple(tuple(map(float, row)) for row in np.concatenate([slopes, bias[:, None]], axis=1))
    )
