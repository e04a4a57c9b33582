"""What a request's model opens on, whoever is online."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_node.fleet.directory import TargetVersion, WorkerDirectory
from edge_node.fleet.models import Models, NoCatalogue
from flexspec_mq.catalogue import naming
from flexspec_mq.catalogue.naming import NoSuchVersion
from flexspec_mq.codec import Codec
from schemas.catalogue import CatalogueVersion, VersionState
from schemas.status import VersionStatus, WorkerStatus
from tests.edge_node.families import CANARY, DRAINING, RETIRED, STABLE, Family, digest, version

CODEC = Codec()


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


def test_names_that_mean_nothing() -> None:
    asked = models(WorkerDirectory(), version("v1", STABLE), version("v0", RETIRED))
    with pytest.raises(NoSuchVersion, match="is retired"):
        asked.resolve("v0", b"")
    with pytest.raises(NoSuchVersion, match="no canary"):
        asked.resolve("smol:canary", b"")
    with pytest.raises(NoSuchVersion, match="'base' is no version of smol"):
        asked.resolve("base", b"")
    with TemporaryDirectory() as folder:
        family = Family()
        nothing = Models(WorkerDirectory(), "base", family.followed(Path(folder)))
        with pytest.raises(NoCatalogue, match=f"no catalogue of the family {family.name}"):
            nothing.resolve(None, b"")
