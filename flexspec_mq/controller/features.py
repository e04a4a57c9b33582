"""What learned policies see of an observation: numbers without a unit, of which most are logarithms of ratios.

Times count as shares of the target's forward, so what was learned at one speed holds at another.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from flexspec_mq.controller.choices import ROW, by_worker, forward_of, reading

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation

FEATURES = (
    "round trip",
    "its deviation",
    "draft's token",
    "row",
    "acceptance, first place",
    "acceptance, next three",
    "acceptance, behind",
    "worker's own token",
    "own token was seen",
    "reading for own drafts",
    "worker drafts",
    "worker was asked",
    "granted",
    "remaining",
    "queue",
    "forwards' deviation",
)
_LEAST, _MOST = 1e-3, 1e3
_GRANTED = 16
_REMAINING = 128
_ASKED = 4


def known(seen: Observation) -> bool:
    """Whether round trip, forward and draft were measured, without which there is nothing to learn from."""
    return seen.rtt is not None and forward_of(seen) > 0.0 and seen.draft_time is not None


def features(seen: Observation) -> list[float]:
    """The numbers that `FEATURES` names, for an observation of which `known` holds."""
    forward = forward_of(seen)

    def share(seconds: float) -> float:
        return log(min(max(seconds / forward, _LEAST), _MOST))

    places = seen.acceptance
    most = len(places) - 1
    return [
        share(seen.rtt or 0.0),
        share(seen.rtt_var),
        share(seen.draft_time or 0.0),
        share(ROW * forward if seen.row_cost is None else seen.row_cost),
        places[0],
        (places[min(1, most)] + places[min(2, most)] + places[min(3, most)]) / 3,
        (places[min(4, most)] + places[min(7, most)]) / 2,
        share(by_worker(seen)),
        0.0 if seen.own_tokens is None else 1.0,
        min(reading(seen) / forward, 2.0),
        min(seen.worker_drafted, 8.0) / 4,
        1.0 if seen.worker_verdicts >= _ASKED else 0.0,
        log(min(_GRANTED if seen.granted is None else max(1, seen.granted), _GRANTED)),
        log(min(max(1, seen.remaining), _REMAINING)),
        share(seen.queue_mean or 0.0),
        share(seen.compute_deviation),
    ]
