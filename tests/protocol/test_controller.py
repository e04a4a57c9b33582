"""Estimates of a node: they outlive its sessions, and new sessions begin with them."""

import pytest
from msgspec.structs import replace

from flexspec_mq.controller.estimators.node import NodeEstimates
from flexspec_mq.controller.estimators.round_trip import RoundTrip
from flexspec_mq.controller.plan import Plan
from flexspec_mq.protocol.edge.session import EdgeSession
from flexspec_mq.protocol.edge.types import DraftToken, Reuse
from schemas.messages import Open
from tests.protocol.builders import sent, session, verdict


def begun(estimates: NodeEstimates, *, now: float = 0.0, reuse: Reuse | None = None) -> EdgeSession:
    machine = session(Plan(4, 1), estimates, reuse=reuse)
    assert len(sent(machine.start(now), Open)) == 1
    return machine


def first_wait(estimates: NodeEstimates, now: float = 0.0) -> float:
    """Seconds after which a new session asks again."""
    at = begun(estimates, now=now).next_tick()
    assert at is not None
    return at - now


def answered(estimates: NodeEstimates, seconds: float, *, worker: str = "w", now: float = 0.0) -> None:
    """A session whose open is answered by a worker's accept after so long."""
    accept = verdict((), (), worker=worker)
    machine = begun(estimates, now=now)
    machine.receive(accept, now + seconds)
    machine.receive(replace(accept, echo=1), now + seconds)
    known = estimates.worker(worker, now + seconds).trip
    assert known is not None
    assert known.smoothed == pytest.approx(seconds)


def test_a_new_session_waits_as_long_as_the_nodes_round_trip_asks_for() -> None:
    """Three seconds there and back: with a timeout of one second it would open again before any answer can come."""
    estimates = NodeEstimates()
    assert 1.0 <= first_wait(estimates) < 2.0
    answered(estimates, 3.0)
    # smoothed 3, deviation 1.5: 3 + 4 · 1.5, bounded by 5, and jittered to at most the double
    assert 5.0 <= first_wait(estimates, 10.0) < 10.0


def test_a_short_round_trip_never_shortens_the_first_wait() -> None:
    """How long the worker reads and computes is unknown: nothing is asked sooner than without the knowledge."""
    estimates = NodeEstimates()
    answered(estimates, 0.001)
    assert 1.0 <= first_wait(estimates, 10.0) < 2.0


def test_the_first_sample_of_a_session_replaces_what_was_known() -> None:
    known, mine = RoundTrip(), RoundTrip()
    known.sent(1, 0.0)
    known.answered(1, 0, 0, 3.0)
    mine.assume(known)
    assert (mine.smoothed, mine.timeout) == (3.0, 5.0)
    mine.sent(1, 10.0)
    mine.answered(1, 0, 10, 10.11)
    alone = RoundTrip()
    alone.sent(1, 10.0)
    alone.answered(1, 0, 10, 10.11)
    assert (mine.smoothed, mine.deviation, mine.timeout) == (alone.smoothed, alone.deviation, alone.timeout)


def test_a_round_trip_is_known_for_a_while_and_by_worker() -> None:
    estimates = NodeEstimates()
    answered(estimates, 0.9, worker="far")
    answered(estimates, 0.5, worker="near", now=5.0)
    assert begun(estimates, now=10.0).observation.rtt == pytest.approx(0.5)
    assert begun(estimates, now=10.0, reuse=Reuse("far", 2)).observation.rtt == pytest.approx(0.9)
    assert begun(estimates, now=10.0, reuse=Reuse("nobody", 2)).observation.rtt is None
    assert begun(estimates, now=10_000.0, reuse=Reuse("far", 2)).observation.rtt is None


def test_what_a_token_costs_the_draft_is_known_to_the_next_session() -> None:
    estimates = NodeEstimates()
    machine = begun(estimates)
    for now in (0.5, 0.52, 0.54):
        wanted = machine.draft_request()
        assert wanted is not None
        machine.drafted(wanted.start, wanted.digest, DraftToken(7), now)
    assert machine.observation.draft_time == pytest.approx(0.02)
    other = begun(estimates, now=1.0)
    assert other.observation.draft_time == pytest.approx(0.04), "two texts share the drafter"
    machine.cancel(1.0)
    assert other.observation.draft_time == pytest.approx(0.02)
    assert NodeEstimates().draft_time.mean is None


def test_workers_known_are_bounded() -> None:
    estimates = NodeEstimates()
    for number in range(100):
        estimates.worker(f"w{number}", 0.0).drafts.update(8, None)
    assert estimates.worker("w99", 1.0).drafts.per_verdict > 0.0
    assert estimates.worker("w35", 1.0).drafts.per_verdict == 0.0
