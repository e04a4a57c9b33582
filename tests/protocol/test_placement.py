"""Who drafts by the plan that was the default before, and how far the worker may run ahead."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.worker_drafts import WorkerDrafts
from flexspec_mq.controller.plan import Observation, Plan
from flexspec_mq.controller.policies.placement import PlacementPolicy
from schemas.messages import MAX_AHEAD

BASE = Plan(4, 1, 1, 8, worker_draft=8)


def lengths(policy: PlacementPolicy, drafted: Sequence[float]) -> list[int]:
    return [policy.plan(Observation(worker_drafted=one)).draft_length for one in drafted]


def test_the_device_drafts_until_the_worker_does_and_again_once_it_stops() -> None:
    assert lengths(PlacementPolicy(BASE), (0.0, 1.9, 2.1, 4.0, 1.1, 0.9, 1.5, 2.0)) == [
        *(4, 4, 0, 0, 0, 4, 4, 0),
    ]


def test_a_worker_runs_as_far_ahead_as_it_may_for_devices_that_draft() -> None:
    policy = PlacementPolicy(BASE)
    for seen in (Observation(), Observation(rtt=0.004, compute=0.04), Observation(rtt=0.6, compute=0.04)):
        plan = policy.plan(seen)
        assert (plan.draft_length, plan.ahead) == (4, MAX_AHEAD)


def test_where_the_device_does_not_draft_the_worker_runs_as_far_ahead_as_it_may() -> None:
    for seen in (Observation(worker_drafted=2.0), Observation(rtt=0.002, compute=0.04, worker_drafted=4.0)):
        plan = PlacementPolicy(BASE).plan(seen)
        assert (plan.draft_length, plan.ahead) == (0, MAX_AHEAD)


def test_without_run_ahead_the_plan_stays_as_it_is() -> None:
    plan = Plan(4, 1, 1, 0, worker_draft=8)
    assert PlacementPolicy(plan).plan(Observation(rtt=1.0, compute=0.1, worker_drafted=5.0)) == plan


def test_no_more_is_drafted_than_the_worker_takes() -> None:
    assert PlacementPolicy(BASE).plan(Observation(granted=2)).draft_length == 2
    assert PlacementPolicy(BASE).plan(Observation(granted=60)).draft_length == 4


def test_drafts_that_would_come_too_late_are_not_made() -> None:
    def length(rtt: float, draft_time: float | None) -> int:
        seen = Observation(rtt=rtt, compute=0.04, draft_time=draft_time)
        return PlacementPolicy(BASE).plan(seen).draft_length

    assert [length(rtt, 0.004) for rtt in (0.002, 0.06, 0.07, 0.6)] == [4, 4, 0, 0]
    assert [length(0.002, slow) for slow in (0.015, 0.03)] == [4, 0]
    assert length(0.6, None) == 4


def test_batches_get_shorter_with_what_is_put_off_again_and_again_and_grow_without() -> None:
    worker = WorkerDrafts()
    seen = [worker.granted]
    for granted in (0, 0, 0, 0, None, None, *(None,) * 8):
        worker.told(0, granted)
        seen.append(worker.granted)
    assert seen[:7] == [None, 4, 2, 1, 1, 2, 2]
    assert seen[-1] is None


def test_where_drafts_are_put_off_the_device_leaves_them_and_tries_again_some_day() -> None:
    worker = WorkerDrafts()

    def lengths(verified: int, offered: int, forwards: int) -> list[int]:
        found = []
        for _ in range(forwards):
            worker.told(0, None if verified == offered else verified, offered)
            seen = Observation(rtt=0.002, compute=0.04, draft_time=0.004, taken=worker.taken)
            found.append(PlacementPolicy(BASE).plan(seen).draft_length)
        return found

    assert lengths(3, 4, 10) == [4] * 10
    assert lengths(0, 3, 6) == [4, 4, 4, 0, 0, 0]
    silent = lengths(0, 0, 64)
    assert (silent[0], silent[-1]) == (0, 4)
    assert lengths(0, 3, 4)[-1] == 0


def test_sixteen_texts_of_a_node_try_again_no_sooner_than_one() -> None:
    """Each of them is told of each forward, so their hopes are added up."""
    found = []
    for sessions in (1, 16):
        worker = WorkerDrafts()
        for _ in range(8):
            worker.told(0, 0, 3, sessions=sessions)
        forwards = 0
        while worker.taken < 0.2:
            forwards += 1
            for _ in range(sessions):
                worker.told(0, None, sessions=sessions)
        found.append(forwards)
    assert abs(found[0] - found[1]) <= 2


def test_what_a_worker_said_is_known_to_the_next_session() -> None:
    node = Controller()
    assert node.worker(None, 0.0).drafts.per_verdict == 0.0
    node.worker("w", 0.0).drafts.told(8, None)
    assert node.worker("w", 1.0).drafts.per_verdict == 2.0
    assert node.worker(None, 1.0).drafts.per_verdict == 2.0
    assert node.worker("other", 1.0).drafts.per_verdict == 0.0
    assert node.worker("w", 10_000.0).drafts.per_verdict == 0.0


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 10), st.floats(0, 64), st.none() | st.integers(0, 64)),
        max_size=20,
    )
)
def test_every_plan_is_one_that_the_protocol_allows(
    seen: list[tuple[float, float, float, int | None]],
) -> None:
    policy = PlacementPolicy(BASE)
    for rtt, compute, drafted, granted in seen:
        plan = policy.plan(Observation(rtt=rtt, compute=compute, worker_drafted=drafted, granted=granted))
        assert 8 <= plan.ahead <= MAX_AHEAD
        assert 0 <= plan.draft_length <= 4
