"""The newest plans of a node, as the API tells them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_node.completion.figures import plan_told
from schemas.plan import PlanList, VersionPlan

if TYPE_CHECKING:
    from edge_node.node import EdgeNode
    from flexspec_mq.controller.explain import Planned


def plan_list(node: EdgeNode, now: float) -> PlanList:
    """The newest plans of a node; `now` is on the clock of its sessions."""
    active = node.active_versions
    found = sorted(node.plans.items())
    return PlanList(
        data=[_version_plan(version, planned, version in active, now) for version, planned in found]
    )


def _version_plan(version: str, planned: Planned, under_way: bool, now: float) -> VersionPlan:
    at = planned.seen.at
    return VersionPlan(
        version=version,
        under_way=under_way,
        age_s=None if at is None else max(0.0, now - at),
        plan=plan_told(planned),
        alternatives=list(planned.alternatives),
        estimates=dict(planned.estimates()),
        limits=list(planned.limits),
    )
