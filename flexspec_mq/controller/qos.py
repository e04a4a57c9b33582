"""Which quality of service costs least: acknowledgements on every message, or what is lost when a connection breaks.

The protocol asks again for what is lost and takes nothing twice, so each level is right. At QoS 0 a broken connection
loses the verdicts that are on the way, and the edge has them a round trip later, when it asks. At QoS 1 the broker
keeps them, and sends again what was not acknowledged, also what had come. QoS 2 sends nothing twice, for one more
exchange a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.controller.observation import Observation

_MORE = 0.0, 108.0, 220.0
"""IP bytes that a message and its acknowledgements have more than at QoS 0, TCP's own included, by
``python -m lab.benchmarks.transport``."""
_VERDICT = 150.0
"""IP bytes of a verdict, by the same."""
_GOODPUT = 100_000.0
"""Bytes per second that a link is taken to carry where nothing is known."""
_OURS = 3.0
"""A link's least goodput says nothing where it is less than so many times what a session sends."""
_BETTER = 0.8
"""Share of the present level's cost that another level has to be below."""
_KNOWN = 0.0005
"""Seconds a round below which differences are none; then the level with the fewest bytes is taken."""


def qos_costs(seen: Observation) -> tuple[float, float, float] | None:
    """Seconds that each level costs a round, as an expectation; None while no connection was seen for long enough."""
    link, forward = seen.link, seen.forward
    if link.disconnects is None or seen.rtt is None or not forward:
        return None
    sends = _OURS * _VERDICT / forward
    up = _GOODPUT if link.up is None or link.up < sends else link.up
    down = _GOODPUT if link.down is None or link.down < sends else link.down
    breaks = link.disconnects * forward
    acknowledged = seen.rtt if link.ack_time is None else link.ack_time
    under_way = _VERDICT * min(acknowledged / forward, down * acknowledged / _VERDICT)
    each = 1 / up + 1 / down
    lost, twice = breaks * seen.rtt, breaks * under_way / down
    return _MORE[0] * each + lost, _MORE[1] * each + twice, _MORE[2] * each


def cheapest_qos(seen: Observation, now: int) -> int:
    """The level to go on with, where it is `now` so far."""
    costs = qos_costs(seen)
    if costs is None:
        return now
    least = min(costs)
    level = 0
    while costs[level] - least >= _KNOWN:
        level += 1
    stays = costs[now] - least >= _KNOWN and costs[now] * _BETTER < costs[level]
    return now if stays else level
