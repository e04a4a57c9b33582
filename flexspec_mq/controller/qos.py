"""Which quality of service costs least: acknowledgements on every message, or what is lost when a connection breaks.

The protocol asks again for what is lost and takes nothing twice, so each level is right. At QoS 0 a broken connection
loses the verdicts that are on the way, and the edge has them a round trip later, when it asks. At QoS 1 the broker
keeps them, and sends again what was not acknowledged, also what had come. QoS 2 sends nothing twice, for one more
exchange a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flexspec_mq.controller.plan import Observation

_MORE = 0.0, 108.0, 220.0
"""IP bytes that a message and its acknowledgements have more than at QoS 0, TCP's own included; measured."""
_VERDICT = 150.0
"""IP bytes of a verdict."""
_GOODPUT = 100_000.0
"""Bytes per second that a link is taken to carry where nothing is known."""
_OURS = 3.0
"""What a link carries at least says nothing where that is less than so many times what a session sends."""
_BETTER = 0.8
"""Another level has to cost so much of the present one's at most."""
_KNOWN = 0.0005
"""Differences below this many seconds a round are none; then the level with the fewest bytes is taken."""


def costs(seen: Observation) -> tuple[float, float, float] | None:
    """Seconds that each level costs a round, as an expectation; None while no connection was seen for long enough."""
    if seen.disconnects is None or seen.rtt is None or not seen.compute:
        return None
    up, down = (_carries(rate, seen.compute) for rate in (seen.goodput_up, seen.goodput_down))
    breaks = (seen.disconnects + (seen.disconnects_error or 0.0)) * seen.compute
    acknowledged = seen.ack_times[1] if seen.ack_times[1] is not None else seen.rtt
    under_way = _VERDICT * min(acknowledged / seen.compute, down * acknowledged / _VERDICT)
    lost, twice = breaks * seen.rtt, breaks * under_way / down
    bytes_of = [more / up + more / down for more in _MORE]
    return bytes_of[0] + lost, bytes_of[1] + twice, bytes_of[2]


def _carries(least: float | None, forward: float) -> float:
    """Bytes per second of a way."""
    return _GOODPUT if least is None or least < _OURS * _VERDICT / forward else least


def best(seen: Observation, now: int) -> int:
    """The level to go on with, where it is `now` so far."""
    found = costs(seen)
    if found is None:
        return now
    least = min(found)
    alike = [level for level, cost in enumerate(found) if cost - least < _KNOWN]
    if now not in alike and found[now] * _BETTER < found[alike[0]]:
        return now
    return alike[0]
