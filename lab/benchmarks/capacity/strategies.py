"""Who drafts: the ways to serve that are compared, each as what an edge and a worker are told."""

from __future__ import annotations

from dataclasses import dataclass

from edge_node.settings import PlanOptions
from schemas.messages import MAX_AHEAD

K = 4
"""Drafted tokens of a batch, in those strategies that fix it."""
STREAMING, COLOCATED, DEVICE, DEFAULT = "streaming", "colocated", "device", "default"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One of them.

    Attributes:
        plan: of the edges.
        rationed: the worker gives its rows out where they are worth most; otherwise all drafts get theirs.
        lookup: devices that draft look up as well, where lookups are made at all.
    """

    plan: PlanOptions
    rationed: bool = False
    lookup: bool = True


STRATEGIES = {
    STREAMING: Strategy(PlanOptions(policy="fixed", draft_length=0, ahead=MAX_AHEAD, worker_draft=0)),
    COLOCATED: Strategy(PlanOptions(policy="fixed", draft_length=0, ahead=MAX_AHEAD, worker_draft=K)),
    DEVICE: Strategy(PlanOptions(policy="fixed", draft_length=K, ahead=8, worker_draft=0)),
    DEFAULT: Strategy(PlanOptions(), rationed=True),
}
"""Streaming; drafts at the worker for everybody, always, as production servers do; drafts on the devices; what an
edge does without any flags, at a worker without any but its draft."""
