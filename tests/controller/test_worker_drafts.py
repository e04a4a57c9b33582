"""What a worker's verdicts say about drafts: how many it takes, and whether it drafts itself."""

from __future__ import annotations

from flexspec_mq.controller.controller import Controller
from flexspec_mq.controller.estimators.worker_drafts import WorkerDrafts


def test_batches_get_shorter_with_what_is_put_off_again_and_again_and_grow_without() -> None:
    worker = WorkerDrafts()
    seen = [worker.granted]
    for granted in (0, 0, 0, 0, None, None, *(None,) * 8):
        worker.told(0, granted)
        seen.append(worker.granted)
    assert seen[:7] == [None, 4, 2, 1, 1, 2, 2]
    assert seen[-1] is None


def test_the_share_of_drafts_that_is_taken_falls_where_they_are_put_off_and_comes_back() -> None:
    worker = WorkerDrafts()

    def shares(verified: int, offered: int, forwards: int) -> list[float]:
        found = []
        for _ in range(forwards):
            worker.told(0, None if verified == offered else verified, offered)
            found.append(worker.taken)
        return found

    assert shares(3, 4, 10)[-1] > 0.7
    assert shares(0, 3, 6)[-1] < 0.2
    assert shares(0, 0, 64)[-1] > 0.2
    assert shares(0, 3, 4)[-1] < 0.2


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
