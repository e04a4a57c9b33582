"""All that a node estimates, for people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.controller.estimators.average import Average
from flexspec_mq.controller.estimators.worker import WorkerEstimates
from flexspec_mq.controller.observation import Observation
from schemas.plan import PlanEstimate

if TYPE_CHECKING:
    from flexspec_mq.controller.estimators.node import NodeEstimates, VersionEstimates

_FIRST = 4
"""Places of a batch whose acceptance is told."""


def estimates(
    seen: Observation, worker: WorkerEstimates, version: VersionEstimates, node: NodeEstimates
) -> dict[str, PlanEstimate]:
    """All that is estimated, by the names of `docs/controller.md`, with units.

    Args:
        seen: observation of the newest plan.
        worker: worker of the session.
        version: target version of the session.
        node: node of the session.
    """
    drafts, acceptance = seen.worker, version.acceptance
    draft = node.draft_time
    error = None if draft.error is None or not seen.draft_timed else seen.sessions * draft.error
    lost = node.disconnects
    own = drafts.per_verdict if drafts.verdicts else None
    return {
        "rtt": _ms(seen.rtt, worker.round_trip.error),
        "queue_mean": _mean(worker.queue),
        "compute_mean": _mean(worker.compute),
        "forward": _ms(seen.forward or None),
        "row_cost": _ms(seen.row_cost),
        "queueing_delay": _ms(seen.queueing_delay),
        "worker_drafted": _figure(own, "tokens per verdict"),
        "granted": _figure(drafts.granted, "tokens per forward"),
        "draft_time": _ms(seen.draft_time, error, "ms per token"),
        **{
            f"acceptance_{place + 1}": _figure(
                acceptance.places[place], "share", tries=acceptance.known[place]
            )
            for place in range(_FIRST)
        },
        "rate": _figure(seen.rate, "tokens per second"),
        "disconnects": _figure(3600 * lost.rate, "per hour", 3600 * lost.error),
        "bandwidth_up": _figure(node.up.per_second, "bytes per second"),
        "bandwidth_down": _figure(node.down.per_second, "bytes per second"),
    }


def _mean(times: Average) -> PlanEstimate:
    return _ms(times.mean, times.error)


def _ms(seconds: float | None, error: float | None = None, unit: str = "ms") -> PlanEstimate:
    return _figure(None if seconds is None else 1000 * seconds, unit, None if error is None else 1000 * error)


def _figure(
    value: float | None, unit: str, error: float | None = None, tries: float | None = None
) -> PlanEstimate:
    return PlanEstimate(value=value, unit=unit, error=error, tries=tries)
