"""Links of drawn figures: none of them is a profile or a recording, which are for testing what was learned."""

import math
import random

from lab.testbed.link.profiles import Figure, LinkPlan, Outages, Profile, State, WayFigures

_SOURCE = "drawn"
_DELAY_MS = 0.5, 320.0
_RATE_MBIT = 0.3, 100.0
_DWELL_S = 2.0, 20.0
_CHANGES = 0.4
"""Share of links with several states."""
_OUTAGES = 0.08
"""Share of links with outages."""


def drawn_link(rng: random.Random) -> LinkPlan:
    """Any link: near or far, steady or not."""
    number = rng.choice((2, 3)) if rng.random() < _CHANGES else 1
    names = [f"state {one}" for one in range(number)]
    dwell = Figure(log_uniform(rng, *_DWELL_S), _SOURCE) if number > 1 else None
    states = tuple(State(name, *_ways(rng), dwell_s=dwell) for name in names)
    outages = None
    if rng.random() < _OUTAGES:
        shortest = log_uniform(rng, 0.5, 2.0)
        outages = Outages(
            Figure(log_uniform(rng, 10.0, 60.0), _SOURCE),
            Figure(shortest, _SOURCE),
            Figure(shortest * log_uniform(rng, 1.0, 8.0), _SOURCE),
        )
    return LinkPlan("drawn", Profile("drawn", states, outages), rng.getrandbits(32))


def _ways(rng: random.Random) -> tuple[WayFigures, WayFigures]:
    delay = log_uniform(rng, *_DELAY_MS)
    jitter = delay * rng.choice((0.05, 0.2, 0.6, 2.0)) if delay < 40.0 else delay * rng.uniform(0.02, 0.3)
    loss = rng.choice((0.0, 0.1, 0.5, 1.5))
    return _way(delay, jitter, loss, log_uniform(rng, *_RATE_MBIT)), _way(
        delay, jitter, loss, log_uniform(rng, *_RATE_MBIT)
    )


def _way(delay: float, jitter: float, loss: float, rate: float) -> WayFigures:
    queue = max(64.0, rate * 1000 / 8 / 4)
    return WayFigures(*(Figure(value, _SOURCE) for value in (delay, jitter, rate, loss, queue)))


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    """Any number between two, as likely to be below their geometric mean as above."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
