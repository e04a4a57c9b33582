"""Policies with weights of a file, as `flexspec policy train` writes them, instead of those that ship."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from flexspec_mq.controller.correction import read_correction
from flexspec_mq.controller.network import read_network
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies.predictor import PredictorPolicy
from flexspec_mq.controller.policies.rl import RlPolicy
from flexspec_mq.errors import ModelError, UsageError

LEARNED = "predictor", "rl"
"""Policies that have weights."""


@cache
def trained(policy: str, weights: Path) -> Callable[[Plan], Policy]:
    """What makes a policy from the configured plan.

    Args:
        policy: its name.
        weights: read once.

    Raises:
        UsageError: the policy has none.
        ModelError: they cannot be read, or are of something else.
    """
    if policy not in LEARNED:
        raise UsageError(
            f"policy {policy!r} has no weights", hint=f"leave them out, or take {' or '.join(LEARNED)}"
        )
    try:
        text = weights.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the weights {weights} cannot be read: {error}") from error
    if policy == "rl":
        network = read_network(text, str(weights))
        return lambda base: RlPolicy(base, network=network)
    correction = read_correction(text, str(weights))
    return lambda base: PredictorPolicy(base, correction=correction)
