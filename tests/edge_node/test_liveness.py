"""When a status says that the life of a worker that we knew is over."""

from __future__ import annotations

import time
from typing import Literal

import pytest

from edge_node.fleet.directory import WorkerLiveness
from schemas.status import WorkerStatus

State = Literal["online", "draining", "gone"]


def status(state: State, life: int, worker: str = "w1") -> WorkerStatus:
    return WorkerStatus(state=state, epoch=5, at=time.time(), worker=worker, life=life)


@pytest.mark.parametrize(
    ("seen", "news", "over"),
    [
        pytest.param([("online", 5)], ("gone", 5), True, id="its will"),
        pytest.param([("online", 5)], ("online", 5), False, id="a heartbeat"),
        pytest.param([("online", 5)], ("draining", 5), False, id="a drain"),
        pytest.param([("online", 5)], ("online", 6), True, id="it was started anew"),
        pytest.param([], ("gone", 5), True, id="it went before we listened"),
        pytest.param([], ("online", 5), False, id="the first we hear"),
        pytest.param([("online", 6)], ("online", 5), True, id="it was started anew, whatever its number"),
    ],
)
def test_what_a_status_says(seen: list[tuple[State, int]], news: tuple[State, int], over: bool) -> None:
    liveness = WorkerLiveness()
    liveness.holds(1, "w1")
    for state, life in seen:
        liveness.ended(status(state, life))
    assert liveness.ended(status(*news)) is over


async def test_only_workers_with_sessions_count_and_nothing_is_kept_of_others() -> None:
    liveness = WorkerLiveness()
    assert not liveness.ended(status("gone", 1))
    liveness.holds(1, "w1")
    liveness.holds(2, "w1")
    liveness.holds(3, "w2")
    assert liveness.workers == {"w1", "w2"}
    assert liveness.sessions_of("w1") == [1, 2]
    assert not liveness.ended(status("online", 9))
    liveness.holds(1, "w2")
    liveness.holds(2, None)
    liveness.holds(2, None)
    assert liveness.workers == {"w2"}
    liveness.holds(1, "w1")
    assert not liveness.ended(status("online", 10)), "a life of before was kept"
