"""Statuses: who is online, what an edge tells of its versions in its own, and what the model of a request opens on."""

import asyncio
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.fleet.directory import TargetVersion, WorkerDirectory
from edge_node.fleet.models import Models
from edge_node.settings import EdgeSettings
from edge_node.status import VersionTally
from edge_node.wire import Wire, wire_of
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.codec import Codec
from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeyReason, KeysRefused
from flexspec_mq.waiting import STALE
from schemas.catalogue import MAX_VERSIONS, CatalogueVersion, VersionState
from schemas.messages import PartialSampling, Sampling
from schemas.status import VersionFigures, VersionStatus, WorkerStatus
from tests.daemons import PATIENCE
from tests.edge_node.families import CANARY, DRAINING, RETIRED, STABLE, Family, digest, version
from tests.keys.deployments_of_keys import KeyedDeployment, status_by

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
    assert workers.take("w", status("gone", epoch=4)) is None  # the will of an older incarnation
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
    assert workers.recommended("base") == Sampling(1.0)
    workers.take("w", status(recommended=PartialSampling(0.5, 7)))
    assert workers.recommended("base") == Sampling(0.5, 7)
    workers.take("w", status(recommended=PartialSampling(100.0, 7)))
    assert workers.recommended("base") == Sampling(1.0)
    assert not workers.take_recommendation("base", "w", Sampling(2.01))
    assert workers.recommended("base") == Sampling(1.0)
    assert workers.take_recommendation("base", "w", Sampling(2.0, 3, 0.9))
    workers.take("w", status(recommended=PartialSampling(0.5, 7)))
    assert workers.recommended("base") == Sampling(2.0, 3, 0.9)
    assert workers.recommended("other") == Sampling(1.0)
    assert caplog.text.count("worker w recommends temperature") == 1
    assert "temperature 100 for version base, above 2: ignored" in caplog.text


def test_a_status_counts_for_what_its_credential_names(tmp_path: Path) -> None:
    keys = KeyedDeployment(tmp_path)
    wire = wire_of(EdgeSettings(edge="edge", keys=keys.edge_file()))
    workers = WorkerDirectory(allowed=wire.allowed)
    foreign = keys.worker("w2"), keys.edge("w"), KeyedDeployment(tmp_path).worker("w")
    pinned, free = keys.worker("w", "v1", "v2"), keys.worker("w")
    at = count(time.time())

    def says(identity: KeyIdentity, version: str, *versions: str, credential: bytes = b"") -> set[str]:
        served = tuple(VersionStatus(name=name) for name in versions)
        said = WorkerStatus(
            state="online", epoch=5, at=next(at), worker="w", version=version, versions=served
        )
        workers.take("w", status_by(identity, said, credential))
        return set(workers.versions())

    assert says(pinned, "v1") == {"v1"}
    assert wire.refusals.counts == {}
    assert says(pinned, "base") == set()
    assert says(pinned, "base", "v2", "v3") == {"v2"}
    assert says(pinned, "v1", "base") == set()  # it says that it is not ready for the one that it may serve
    assert wire.refusals.counts == {KeyReason.CREDENTIAL: 3}
    assert says(free, "base", "v1", "base") == {"v1", "base"}
    for other, credential in ((free, b"noise"), *((one, b"") for one in foreign)):
        with pytest.raises(KeysRefused):
            says(other, "ghost", credential=credential)
    assert workers.take("w", b"") is None
    wire.take(topics.statement_topic(), keys.revoke("w").payload)
    with pytest.raises(KeysRefused):
        workers.take("w", status("gone"))
    assert set(workers.versions()) == {"v1", "base"}
    # As the broker says of one that it has banned.
    workers.take("w", status_by(free, WorkerStatus(state="gone", epoch=5, at=0.0, worker="w")))
    assert workers.versions() == {}


def test_an_earlier_status_comes_back_for_nothing(tmp_path: Path) -> None:
    """Whoever runs the broker keeps statuses: nobody lives longer by them, and none is believed an hour later."""
    keys, now = KeyedDeployment(tmp_path), 0.0
    wire = Wire("edge", EdgeKeys(keys.edge()), lambda _: None, lambda: 1e9)
    workers = WorkerDirectory(lambda: now, wire.allowed)
    worker = keys.worker("w")
    kept = [
        status_by(worker, WorkerStatus(state="online", epoch=5, at=1e9 + late, worker="w", version=name))
        for late, name in enumerate(("v1", "v2"))
    ]
    assert workers.take("w", kept[0])
    assert workers.take("w", kept[1])
    with pytest.raises(KeysRefused, match="has told a newer status before") as refused:
        workers.take("w", kept[0])
    assert refused.value.reason is KeyReason.REPLAYED
    now = STALE - 1
    assert workers.take("w", kept[1]) is None
    assert set(workers.versions()) == {"v2"}
    now = STALE + 1
    assert workers.take("w", kept[1]) is None
    assert not workers.versions()

    def at_a_device_that_starts(clock: float) -> object:
        wire = Wire("edge", EdgeKeys(keys.edge()), lambda _: None, lambda: clock)
        return WorkerDirectory(allowed=wire.allowed).take("w", kept[1])

    assert all(map(at_a_device_that_starts, (0.0, 1e9 + 3500)))  # of 1970 it knows no better
    with pytest.raises(KeysRefused, match="is 3699 s old, by the clocks of the two machines"):
        at_a_device_that_starts(1e9 + 3700)


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


# Figures that an edge reports for each version


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


def models(directory: WorkerDirectory, *versions: CatalogueVersion) -> Models:
    """With a catalogue of the family ``smol``, as an edge finds it on its disk when it starts."""
    family = Family("smol")
    with TemporaryDirectory() as folder:
        family.remember(Path(folder), *versions)
        return Models(directory, "base", family.followed(Path(folder)))


def online(directory: WorkerDirectory, worker: str, *versions: VersionStatus, name: str = "") -> None:
    status = WorkerStatus(state="online", epoch=1, at=0.0, worker=worker, version=name, versions=versions)
    directory.take(worker, CODEC.encode_status(status))


def ready(name: str, of: bytes | None = None) -> VersionStatus:
    return VersionStatus(name=name, digest=(digest(name) if of is None else of)[:8].hex(), state="ready")


STATES = st.lists(st.sampled_from([CANARY, DRAINING, RETIRED]), max_size=5)


@given(STATES, st.integers(0, 5), st.sets(st.integers(0, 5)), st.binary(max_size=4))
def test_the_family_goes_where_somebody_serves_it(
    states: list[VersionState], place: int, served: set[int], key: bytes
) -> None:
    states.insert(min(place, len(states)), STABLE)
    versions = [version(f"v{number}", state, 50) for number, state in enumerate(states)]
    directory = WorkerDirectory()
    online(directory, "w", *(ready(one.name) for n, one in enumerate(versions) if n in served))
    asked = models(directory, *versions)
    found = asked.resolve(None, key)
    assert asked.followed is not None
    assert asked.followed.catalogue is not None
    meant = naming.resolve(asked.followed.catalogue, "smol", key)
    can = {one.name for n, one in enumerate(versions) if n in served and one.state is not RETIRED}
    if meant.name in can or not can:
        assert found == TargetVersion(meant.name, meant.digest.hex())
    else:
        assert found.version in can
    assert asked.is_online(found) == bool(can)
    stable = asked.resolve("smol:stable", key).version
    assert states[int(stable[1:])] in (STABLE, DRAINING)
    for one in versions:
        if one.state is not RETIRED:
            assert (
                asked.resolve(one.name, key).version
                == asked.resolve(f"smol:{one.name}", key).version
                == one.name
            )
    listed = {name: found.name for name, _, found in asked.listed()}
    assert set(listed.values()) <= can
    assert {f"smol:{name}" for name in can} <= listed.keys()


def test_a_worker_serves_a_version_only_with_its_head() -> None:
    directory = WorkerDirectory()
    asked = models(directory, version("v1", STABLE))
    target = asked.resolve("v1", b"")
    online(directory, "w", ready("v1", digest("another")))
    assert not asked.is_online(target)
    online(directory, "w", VersionStatus(name="v1", digest=target.digest[:16], state="loading"))
    assert not asked.is_online(target)
    online(directory, "w", ready("v1"))
    assert asked.is_online(target)
    online(directory, "w", name="v1")  # it follows no family
    assert asked.is_online(target)
    online(directory, "w", ready("v1", digest("another")))
    assert Models(directory, "v1", None).is_online(TargetVersion("v1"))  # we follow none
