"""The policies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flexspec_mq.controller.confidence import ConfidencePolicy
from flexspec_mq.controller.fixed import FixedPolicy
from flexspec_mq.controller.plan import Plan, Policy

POLICIES: Mapping[str, Callable[[Plan], Policy]] = {"fixed": FixedPolicy, "confidence": ConfidencePolicy}
"""What makes each from the configured plan."""
