"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.policies.cheapest_qos import CheapestQos
from flexspec_mq.controller.policies.closed_form import ClosedFormPolicy
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.controller.policies.rl import RlPolicy
from flexspec_mq.controller.policies.within_limits import WithinLimits

DEFAULT = "closed-form"
"""Policy of an edge node where the user says nothing."""
POLICIES: Mapping[str, Callable[[Plan], Policy]] = {
    DEFAULT: ClosedFormPolicy,
    "fixed": FixedPolicy,
    "rl": RlPolicy,
}
"""What makes each from the configured plan."""
ADAPTIVE = frozenset(POLICIES) - {"fixed"}
"""Those that choose who drafts, and how."""
REMOVED: Mapping[str, str] = {
    **dict.fromkeys(("placement", "threshold", "predictor", "bandit"), f"take {DEFAULT}, the default"),
    "confidence": f"take {DEFAULT}, the default, or fixed with a threshold of its own in the setting stop",
}
"""What to use instead of policies of earlier versions."""


def name_of(policy: Policy) -> str:
    """A policy's name; that of its class where it is none of `POLICIES`."""
    while isinstance(policy, CheapestQos | WithinLimits):
        policy = policy.inner
    kind = type(policy)
    return next((name for name, made in POLICIES.items() if made is kind), kind.__name__)
