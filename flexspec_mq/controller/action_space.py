"""Features that the learned policy sees of an observation, and the ways to make drafts that it chooses from.

Features are numbers without a unit, most of them logarithms of ratios. Times count as shares of the target's forward,
so what was learned at one speed holds at another.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

from flexspec_mq.controller.round_model import NOBODY, ROW, Drafting, worker_reading, worker_tokens

if TYPE_CHECKING:
    from flexspec_mq.controller.observation import Observation

FEATURES = (
    "round trip",
    "its deviation",
    "draft's token",
    "row",
    "acceptance, first place",
    "acceptance, next three",
    "acceptance, behind",
    "worker's own token",
    "reading for own drafts",
    "worker drafts",
    "worker was asked",
    "granted",
    "remaining",
    "queue",
    "forwards' deviation",
)
MACRO = 4
"""Tokens for which an action holds, at least."""


class Action(NamedTuple):
    """A way to make drafts, and whether the worker may draft as well."""

    way: Drafting
    worker: bool = False

    @property
    def name(self) -> str:
        """Name in files of weights."""
        length, window, ahead = self.way.length, self.way.window, self.way.ahead
        if not length:
            return "worker" if self.worker else "nobody"
        words = f"K {length}, W {window}" if ahead else f"K {length}, waiting"
        return f"{words}, and worker" if self.worker else words


ACTIONS = (
    Action(NOBODY, worker=True),
    Action(NOBODY),
    *(Action(Drafting(length, 1, False)) for length in (2, 4, 8)),
    *(
        Action(Drafting(length, window, True))
        for length, window in ((4, 1), (8, 1), (4, 2), (8, 2), (2, 3), (4, 3))
    ),
    *(
        Action(Drafting(length, window, True), worker=True)
        for length, window in ((2, 1), (4, 1), (8, 1), (4, 2), (4, 3))
    ),
)
"""All actions, in the order of a policy's outputs."""
WAITING = tuple(number for number, action in enumerate(ACTIONS) if not action.way.ahead)
"""Numbers of the actions that need no run-ahead."""


def known(seen: Observation) -> bool:
    """Whether round trip, forward and draft were measured, without which there is nothing to learn from."""
    return seen.rtt is not None and seen.forward > 0.0 and seen.draft_timed


def features(seen: Observation) -> list[float]:
    """The numbers that `FEATURES` names, for an observation of which `known` holds."""
    forward, worker, places = seen.forward, seen.worker, seen.acceptance
    most = len(places) - 1

    def share(seconds: float) -> float:
        return log(min(max(seconds / forward, 1e-3), 1e3))

    return [
        share(seen.rtt or 0.0),
        share(seen.rtt_deviation),
        share(seen.draft_time or 0.0),
        share(ROW * forward if seen.row_cost is None else seen.row_cost),
        places[0],
        (places[min(1, most)] + places[min(2, most)] + places[min(3, most)]) / 3,
        (places[min(4, most)] + places[min(7, most)]) / 2,
        share(forward / worker_tokens(seen)),
        min(worker_reading(seen) / forward, 2.0),
        min(worker.per_verdict, 8.0) / 4,
        1.0 if worker.verdicts >= 4 else 0.0,
        log(min(16 if worker.granted is None else max(1, worker.granted), 16)),
        log(min(max(1, seen.remaining), 128)),
        share(seen.queue),
        share(seen.forward_deviation),
    ]
