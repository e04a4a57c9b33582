"""What a plan is made from, for people and programs: estimates by the names of `docs/controller.md`, with units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexspec_mq.controller import qos

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flexspec_mq.controller.plan import Observation

_FIRST = 4
"""Places of a batch whose acceptance is told."""
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure.

    Attributes:
        value: None where nothing was seen.
        unit: of value and error.
        error: standard error; None where it is not known.
        tries: that a share rests on, older ones counting less; None for what is no share.
    """

    value: float | None
    unit: str
    error: float | None = None
    tries: float | None = None


def estimates(seen: Observation) -> dict[str, Estimate]:
    """All that is estimated, by name."""
    return {
        **dict(_worker(seen)),
        **dict(_drafts(seen)),
        **dict(_link(seen)),
    }


def _worker(seen: Observation) -> Iterator[tuple[str, Estimate]]:
    yield "rtt", _ms(seen.rtt, seen.rtt_error)
    yield "queue_mean", _ms(seen.queue_mean, seen.queue_error)
    yield "compute_mean", _ms(seen.compute_mean, seen.compute_error)
    yield "forward", _ms(seen.forward)
    yield "row_cost", _ms(seen.row_cost, seen.row_cost_error)
    yield "own_forward", _ms(seen.own_forward)
    yield "own_tokens", Estimate(seen.own_tokens, "tokens per forward")
    yield "own_read", _ms(seen.own_read)
    yield (
        "worker_drafted",
        Estimate(seen.worker_drafted if seen.worker_verdicts else None, "tokens per verdict"),
    )
    yield "granted", Estimate(seen.granted, "tokens per forward")
    yield "taken", Estimate(seen.taken, "share")


def _drafts(seen: Observation) -> Iterator[tuple[str, Estimate]]:
    yield "draft_time", _ms(seen.draft_time, seen.draft_time_error, per="token")
    for place in range(_FIRST):
        # The last entry stands for all later places.
        at = min(place, len(seen.acceptance) - 1)
        tries = seen.acceptance_known[min(place, len(seen.acceptance_known) - 1)]
        yield f"acceptance_{place + 1}", Estimate(seen.acceptance[at], "share", tries=tries)
    yield (
        "worker_acceptance",
        Estimate(seen.worker_acceptance, "share", tries=seen.worker_acceptance_known),
    )
    yield "rate", Estimate(seen.rate, "tokens per second")


def _link(seen: Observation) -> Iterator[tuple[str, Estimate]]:
    yield (
        "disconnects",
        Estimate(_times(seen.disconnects, _HOUR), "per hour", _times(seen.disconnects_error, _HOUR)),
    )
    yield "outage", Estimate(seen.outage, "s", seen.outage_error)
    yield "goodput_up", Estimate(seen.goodput_up, "bytes per second")
    yield "goodput_down", Estimate(seen.goodput_down, "bytes per second")
    costs = qos.costs(seen) or (None, None, None)
    for level, seconds in enumerate(seen.ack_times):
        yield f"ack_time_{level}", _ms(seconds)
    for level, seconds in enumerate(costs):
        yield f"qos_cost_{level}", _ms(seconds, per="round")


def _ms(seconds: float | None, error: float | None = None, *, per: str = "") -> Estimate:
    return Estimate(_times(seconds, 1000.0), f"ms per {per}" if per else "ms", _times(error, 1000.0))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
