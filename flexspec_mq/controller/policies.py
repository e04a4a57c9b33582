"""The policies by name: the closed form is the default, `fixed` keeps to the settings, `rl` has learned."""

from collections.abc import Callable, Mapping

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.plan import FixedPolicy, Plan, Policy
from flexspec_mq.controller.rl import RlPolicy

DEFAULT = "closed-form"
"""Policy of an edge node where the user says nothing."""
POLICIES: Mapping[str, Callable[[Plan], Policy]] = {
    DEFAULT: ClosedFormPolicy,
    "fixed": FixedPolicy,
    "rl": RlPolicy,
}
"""Makers of each policy, from the configured plan."""


def name_of(policy: Policy) -> str:
    """A policy's name; the name of its class where it is none of `POLICIES`."""
    kind = type(policy)
    return next((name for name, known in POLICIES.items() if known is kind), kind.__name__)
