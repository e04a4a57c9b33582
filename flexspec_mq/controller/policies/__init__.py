"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies.bandit import BanditPolicy
from flexspec_mq.controller.policies.cheapest_qos import CheapestQos
from flexspec_mq.controller.policies.confidence import ConfidencePolicy
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.policies.placement import PlacementPolicy
from flexspec_mq.controller.policies.predictor import PredictorPolicy
from flexspec_mq.controller.policies.rl import RlPolicy
from flexspec_mq.controller.policies.threshold import ThresholdPolicy
from flexspec_mq.controller.policies.within_limits import WithinLimits

POLICIES: Mapping[str, Callable[[Plan], Policy]] = {
    "placement": PlacementPolicy,
    "threshold": ThresholdPolicy,
    "fixed": FixedPolicy,
    "confidence": ConfidencePolicy,
    "bandit": BanditPolicy,
    "predictor": PredictorPolicy,
    "rl": RlPolicy,
}
"""What makes each from the configured plan."""
ADAPTIVE = frozenset(POLICIES) - {"fixed", "confidence"}
"""Those that choose more than when to stop drafting."""


def name_of(policy: Policy) -> str:
    """A policy's name; that of its class where it is none of `POLICIES`."""
    while isinstance(policy, CheapestQos | WithinLimits):
        policy = policy.inner
    kind = type(policy)
    return next((name for name, made in POLICIES.items() if made is kind), kind.__name__)
