"""Statuses: which workers are online by theirs, and what an edge tells of its versions in its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edge_node.fleet.directory import STALE, WorkerDirectory
from edge_node.settings import EdgeSettings
from edge_node.status import VersionTally
from edge_node.wire import wire_of
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.sampling.params import SamplingParams
from schemas.catalogue import MAX_VERSIONS
from schemas.messages import Sampling
from schemas.status import VersionFigures, VersionStatus, WorkerStatus
from tests.daemons import PATIENCE
from tests.keys.deployments_of_keys import KeyedDeployment

CODEC = Codec()


def status(
    state: Any = "online", *, worker: str = "w", version: str = "base", epoch: int = 5, **more: Any
) -> bytes:
    return CODEC.encode_status(
        WorkerStatus(state=state, epoch=epoch, at=0.0, worker=worker, version=version, **more)
    )


def test_workers_come_and_go() -> None:
    now = 0.0
    workers = WorkerDirectory(lambda: now)
    workers.take("w", status(exactness="exact"))
    assert workers.versions() == {"base": 5}
    assert workers.described("base")[0] == "exact"
    workers.take("w2", status(worker="w2", epoch=3, exactness="exact up to ties"))
    assert workers.versions() == {"base": 3}
    assert workers.described("base")[0] == "exact up to ties"
    assert workers.described("other")[0] == "unknown"
    assert workers.take("w", status("gone", epoch=4)) is None  # the will of an older life
    assert len(workers.online()) == 2
    workers.take("w", status("draining"))
    workers.take("w2", b"")
    assert workers.versions() == {}
    workers.take("w", status())
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        workers.take("w", b"no status")
    with pytest.raises(RemoteProtocolError, match="is that of w"):
        workers.take("other", status())
    assert len(workers.online()) == 1
    newest = workers.status("base")
    assert newest is not None
    assert newest.worker == "w"
    now = STALE + 1
    assert workers.online() == []
    assert workers.status("base") is None
    workers.take("w", status())
    assert len(workers.online()) == 1


@pytest.mark.parametrize(
    ("before", "news", "over"),
    [
        pytest.param(("online", 5), ("gone", 5), True, id="its will"),
        pytest.param(("online", 5), ("online", 5), False, id="a heartbeat"),
        pytest.param(("online", 5), ("draining", 5), False, id="a drain"),
        pytest.param(("online", 5), ("online", 6), True, id="it was started anew"),
        pytest.param(None, ("gone", 5), True, id="it went before we listened"),
        pytest.param(None, ("online", 5), False, id="the first we hear"),
        pytest.param(("online", 6), ("online", 5), True, id="it was started anew, whatever its number"),
    ],
)
def test_a_status_says_whether_the_process_before_it_is_over(
    before: tuple[str, int] | None, news: tuple[str, int], over: bool
) -> None:
    workers = WorkerDirectory()
    if before is not None:
        workers.take("w", status(before[0], life=before[1]))
    taken = workers.take("w", status(news[0], life=news[1]))
    assert taken is not None
    assert (taken[0].life, taken[1]) == (news[1], over)


def test_a_sessions_worker_is_believed_about_sampling_before_any_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = WorkerDirectory()
    assert workers.recommended("base") == SamplingParams(1.0)
    workers.take("w", status(temperature=0.5, top_k=7))
    assert workers.recommended("base") == SamplingParams(0.5, 7)
    workers.take("w", status(temperature=100.0, top_k=7))
    assert workers.recommended("base") == SamplingParams(1.0)
    assert workers.take_recommendation("base", "w", Sampling(2.01)) is None
    assert workers.recommended("base") == SamplingParams(1.0)
    assert workers.take_recommendation("base", "w", Sampling(2.0, 3, 0.9)) == SamplingParams(2.0, 3, 0.9)
    workers.take("w", status(temperature=0.5, top_k=7))
    assert workers.recommended("base") == SamplingParams(2.0, 3, 0.9)
    assert workers.recommended("other") == SamplingParams(1.0)
    assert caplog.text.count("worker w recommends temperature") == 1
    assert "temperature 100 for version base, above 2: ignored" in caplog.text


def test_a_status_counts_for_what_its_credential_names(tmp_path: Path) -> None:
    keys = KeyedDeployment(tmp_path)
    wire = wire_of(EdgeSettings(edge="edge", keys=keys.edge_file()))
    workers = WorkerDirectory(allowed=wire.allowed)
    pinned, free = (keys.worker(*whom).signed_credential for whom in (("w", "v1", "v2"), ("w",)))

    def says(credential: bytes, version: str, *versions: str) -> set[str]:
        served = tuple(VersionStatus(name=name) for name in versions)
        workers.take("w", status(version=version, credential=credential, versions=served))
        return set(workers.versions())

    assert says(pinned, "v1") == {"v1"}
    assert wire.refusals.counts == {}
    assert says(pinned, "base") == set()
    assert says(pinned, "base", "v2", "v3") == {"v2"}
    assert says(pinned, "v1", "base") == set()  # it says that it is not ready for the one that it may serve
    assert wire.refusals.counts == {KeyReason.CREDENTIAL: 3}
    assert says(free, "base", "v1", "base") == {"v1", "base"}
    for credential in (
        b"",
        b"noise",
        keys.worker("w2").signed_credential,
        keys.edge("w").signed_credential,
        KeyedDeployment(tmp_path).worker("w").signed_credential,
    ):
        with pytest.raises(KeysRefused):
            says(credential, "ghost")
    wire.take(topics.statement_topic(), keys.revoke("w").payload)
    workers.take("w", status("gone"))  # as the broker says of one that it has put out
    assert workers.versions() == {}


async def waits_for(workers: WorkerDirectory, seconds: float) -> bool:
    return await workers.wait_until(lambda: "base" in workers.versions(), seconds)


async def test_a_version_is_waited_for() -> None:
    workers = WorkerDirectory()
    assert not await waits_for(workers, 0.01)
    waits = [asyncio.create_task(waits_for(workers, PATIENCE)) for _ in range(2)]
    await asyncio.sleep(0)
    workers.take("w", status(version="other"))
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    workers.take("w2", status(worker="w2"))
    assert await asyncio.gather(*waits) == [True, True]
    assert await waits_for(workers, 0.0)


def test_workers_known_are_bounded() -> None:
    workers = WorkerDirectory()
    for number in range(1100):
        workers.take(f"w{number}", status(worker=f"w{number}"))
    assert len(workers.online()) == 1024


def test_a_version_counts_where_a_worker_says_that_it_is_ready() -> None:
    workers = WorkerDirectory()
    several = (
        VersionStatus(name="v1", state="ready", exactness="exact up to ties"),
        VersionStatus(name="v2", state="ready", exactness="exact"),
        VersionStatus(name="v3", state="draining", exactness="exact"),
        VersionStatus(name="v4", state="refused", why="bad"),
        VersionStatus(name="v5", state="loading"),
    )
    workers.take("w", status(epoch=4, exactness="exact", versions=several))
    workers.take("w2", status(worker="w2", version="v1", exactness="exact", epoch=9))
    assert workers.versions() == {"v1": 4, "v2": 4}
    assert workers.described("v1")[0] == "exact up to ties"
    assert workers.described("v2")[0] == "exact"
    assert workers.described("v3")[0] == "unknown"
    found = workers.status("v2")
    assert found is not None
    assert found.worker == "w"
    assert workers.status("base") is None


# What an edge tells of its versions


def wrote(
    tally: VersionTally, name: str, digest: str = "", *, complete: bool = True, failed: bool = False
) -> None:
    sums = {"drafted": 8, "accepted": 6, "tokens": 20, "seconds": 0.5}
    tally.add(VersionFigures(name=name, digest=digest, answers=complete, errors=failed, **sums))  # type: ignore[arg-type]


def test_sums_are_by_name_and_digest_and_bounded() -> None:
    tally = VersionTally()
    wrote(tally, "v", "aa")
    wrote(tally, "v", "bb", complete=False, failed=True)
    wrote(tally, "v", "aa", complete=False)
    other, one = tally.figures()
    assert (one.name, one.digest, one.answers, one.errors) == ("v", "aa", 1, 0)
    assert (one.drafted, one.accepted, one.tokens, one.seconds) == (16, 12, 40, 1.0)
    assert (one.low, one.high) == wilson(12, 16)
    assert (other.digest, other.answers, other.errors) == ("bb", 0, 1)
    for number in range(MAX_VERSIONS):
        wrote(tally, f"v{number}")
    assert [figures.name for figures in tally.figures()] == [f"v{number}" for number in range(MAX_VERSIONS)]
