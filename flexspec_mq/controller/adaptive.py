"""Base of adaptive policies: who drafts as far as the worker decides it, and a way to draft as a plan."""

from flexspec_mq.controller.observation import Observation
from flexspec_mq.controller.plan import Plan, Policy
from flexspec_mq.controller.round_model import ASKS, Drafting
from schemas.messages import MAX_AHEAD

_ALONE = 2.0, 1.0
"""Tokens that a worker drafts for a verdict: from the first on it has time, and is left to draft alone; below the
second the device drafts as well, since each of its tokens spares a worker with several sessions a forward's share."""
_TRIP_AGE = 2.0
"""Seconds after which the round trip is asked for where nothing tells it: a link changes within a second, and an
answer costs as much as another verdict."""
_LEAST, _MOST = 0.02, 0.3
"""Bounds of the threshold that ends a batch: a draft's confidence is no better than that."""
_ACKNOWLEDGING = 108.0
"""IP bytes that QoS 1 adds to a round each way, TCP's own included, by ``python -m lab.benchmarks.transport``."""
_VERDICT = 150.0
"""IP bytes of a verdict, by the same."""
_BANDWIDTH = 100_000.0
"""Bytes per second that a link is taken to carry where nothing is known."""
_OURS = 3.0
"""A link's bandwidth as seen says nothing where it is less than so many times what a session sends."""
_CHEAPER = 0.8
"""Share of the cost of the present quality of service that the other one has to be below."""


def cheapest_qos(seen: Observation, now: int) -> int:
    """The quality of service to go on with, where it is `now` so far: 0, or 1 where connections break often.

    The protocol asks again for what is lost and takes nothing twice, so both are right. At QoS 0 a broken connection
    loses the verdicts that are on the way, and the device has them a round trip later, when it asks. At QoS 1 each
    round carries acknowledgements, which take the time that the bandwidth makes of them.
    """
    if seen.rtt is None or not seen.forward:
        return now
    lost = seen.disconnects * seen.forward * seen.rtt
    least = _OURS * _VERDICT / seen.forward
    acknowledging = 0.0
    for bandwidth in (seen.bandwidth_up, seen.bandwidth_down):
        carried = _BANDWIDTH if bandwidth is None or bandwidth < least else bandwidth
        acknowledging += _ACKNOWLEDGING / carried
    if lost < _CHEAPER * acknowledging:
        return 0
    return 1 if _CHEAPER * lost > acknowledging else now


def token_value(seen: Observation, *, ahead: bool) -> float | None:
    """Tokens that are written elsewhere in the time of drafting and verifying one; None while that is not known.

    Where the worker runs ahead, it is drafted while others are verified, and takes a row only.

    With λ tokens a second and c seconds for one drafted token more, that token must be of use with probability λ·c at
    least: the stopping rule of a ratio (renewal reward). A draft that doubts itself ends early.
    """
    if seen.rate is None or seen.draft_time is None or not seen.draft_timed:
        return None
    return seen.rate * ((0.0 if ahead else seen.draft_time) + (seen.row_cost or 0.0))


class AdaptivePolicy(Policy):
    """Turns ways to make drafts into plans.

    Args:
        base: everything else of the plan, and the plan while nothing is known. Its draft length 0 leaves drafting to
            the worker, its look-ahead 0 allows none.
        choose_qos: go on at the quality of service that costs least, once a text is open.

    Attributes:
        worker_alone: the worker has time for drafts, and may be left to it.
    """

    def __init__(self, base: Plan, *, choose_qos: bool = False) -> None:
        self.base = base
        self.worker_alone = False
        self._may_draft = base.ahead > 0 and base.worker_draft > 0  # the worker
        self._choose_qos = choose_qos
        self._qos = base.qos
        self._idle_at = 0  # drafted tokens when the device last had nothing to draft
        self._newest = base

    def _watch(self, seen: Observation) -> None:
        """Judge the worker anew."""
        above, below = _ALONE
        self.worker_alone = seen.worker.per_verdict >= (below if self.worker_alone else above)

    def _look_at_qos(self, seen: Observation) -> None:
        if self._choose_qos:
            self._qos = cheapest_qos(seen, self._qos)

    def _asks(self, seen: Observation) -> bool:
        """Whether to let the worker draft only to see whether it does."""
        return seen.worker.verdicts < ASKS and not seen.worker.token

    def _unknown(self, *, drafts: bool = True) -> Plan:
        """The plan while too little is known to choose: that of the user, with all look-ahead that there may be."""
        base = self.base
        length = base.draft_length if drafts else 0
        if not base.ahead:
            return self._made(length, base.in_flight, 0, base.confidence_threshold, base.worker_draft)
        return self._made(
            length, base.in_flight, MAX_AHEAD, base.confidence_threshold, base.worker_draft, _TRIP_AGE
        )

    def _plan_of(self, way: Drafting, seen: Observation, *, worker: bool = True) -> Plan:
        """The plan with a way to make drafts, whose batches end early.

        A device whose draft has still to read the text is lent look-ahead until drafts have come. Look-ahead is all
        that there may be: while the link stands no worker gets so far ahead, and in an outage it writes on.

        Args:
            way: how drafts are made.
            seen: observation to plan from.
            worker: the worker may draft beside the device.
        """
        base, length, ahead = self.base, way.length, way.ahead
        if not length:
            self._idle_at = seen.drafted
        cold = seen.drafted <= self._idle_at
        if not ahead and base.ahead and (cold or self._asks(seen)):
            ahead = True
        stop = base.confidence_threshold
        if length and not stop and (value := token_value(seen, ahead=ahead)) is not None:
            stop = min(max(value, _LEAST), _MOST)
        if seen.worker.granted is not None and length > seen.worker.granted:
            length = seen.worker.granted
        if not ahead:
            return self._made(length, way.window, 0, stop, 0, base.trip_age)
        return self._made(length, way.window, MAX_AHEAD, stop, base.worker_draft if worker else 0, _TRIP_AGE)

    def _made(
        self, length: int, window: int, ahead: int, stop: float, worker: int, age: float | None = None
    ) -> Plan:
        """The newest plan if it is the same, as most are, else another one."""
        old, base, qos = self._newest, self.base, self._qos
        same = (length, window, qos, ahead, worker) == (
            old.draft_length, old.in_flight, old.qos, old.ahead, old.worker_draft
        )  # fmt: skip
        if not same or (stop, age) != (old.confidence_threshold, old.trip_age):
            open_qos = base.open_qos if qos == base.qos else base.qos
            self._newest = Plan(length, window, qos, ahead, stop, worker, open_qos, age)
        return self._newest
