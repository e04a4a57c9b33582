"""Which versions a worker has: hypothesis chooses catalogues, sessions, and how loads end."""

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloud_worker.versions.library import (
    NO_CATALOGUE,
    DropVersion,
    Library,
    LoadHead,
    OpenVersion,
    RetireVersion,
    Stage,
    Step,
)
from flexspec_mq.codec import Codec
from schemas.catalogue import MAX_VERSIONS, CatalogueVersion, VersionState
from schemas.status import MAX_WHY, WorkerStatus

NAMES = ("base", "v1", "v2", "v3")
DIGESTS = tuple(sha256(bytes([number])).digest() for number in range(3))
BASE = DIGESTS[0]
"""The manifest of the base itself; the others are of heads."""
OURS, THIRD = b"ours", b"else"
"""Ids of bases: that of the worker, and another."""
VERSIONS = st.lists(
    st.builds(
        CatalogueVersion,
        st.sampled_from(NAMES),
        st.sampled_from(tuple(VersionState)),
        st.sampled_from(DIGESTS),
        base=st.sampled_from((b"", b"", b"", OURS, THIRD)),
    ),
    max_size=4,
    unique_by=lambda one: one.name,
)


def version(
    name: str, state: VersionState = VersionState.STABLE, digest: bytes = DIGESTS[1]
) -> CatalogueVersion:
    return CatalogueVersion(name, state, digest)


def steps(library: Library, sessions: Counter[str] | None = None, now: float = 0.0) -> list[Step]:
    found = []
    counted = sessions or Counter()
    while step := library.next_step(counted.__getitem__, now):
        found.append(step)
        if isinstance(step, LoadHead):
            break
    return found


@pytest.mark.parametrize("said", ['"', "\\", "\x01", "\ufffd", "ü"])
def test_a_status_can_be_read_whatever_servers_of_heads_say(said: str) -> None:
    library = Library("base", "exact")
    names = [f"{number:02}{'v' * 62}" for number in range(MAX_VERSIONS)]
    library.follow([version(name) for name in names])
    for name in names:
        library.refused(LoadHead(name, DIGESTS[1]), said * 1000)
    status = WorkerStatus(state="online", epoch=1, at=1.0, worker="w" * 64, versions=library.statuses())
    assert Codec().decode_status(Codec().encode_status(status), WorkerStatus) == status


def test_reasons_are_whole_while_a_status_of_all_versions_can_be_read() -> None:
    library = Library("base", "exact")
    names = [f"{number:02}{'v' * 62}" for number in range(MAX_VERSIONS)]
    library.follow([version(name) for name in names])
    for name in names:
        library.refused(LoadHead(name, DIGESTS[1]), f"{name}: 'it' is not \"good\"" + "y" * 600)
    told = library.statuses()
    assert [len(one.reason) for one in told[1:4]] == [684, 684, 684]
    assert all(len(one.why) == MAX_WHY for one in told[1:])
    status = WorkerStatus(state="online", epoch=2**52, at=1e9, worker="w" * 64, versions=told)
    assert Codec().decode_status(Codec().encode_status(status), WorkerStatus) == status


def test_a_version_comes_and_goes() -> None:
    library = Library("base", "exact")
    assert steps(library) == []
    assert [(one.state, one.why) for one in library.statuses()] == [("loading", NO_CATALOGUE)]
    library.follow([version("v1"), version("v2", VersionState.CANARY, DIGESTS[2])])
    # The worker's own version is not the family's, and may be served.
    load, second = LoadHead("v1", DIGESTS[1]), LoadHead("v2", DIGESTS[2])
    assert steps(library) == [OpenVersion("base"), load]
    assert library.loaded(load, "exact up to ties")
    assert steps(library) == [OpenVersion("v1"), second]
    library.refused(second, "it is bad\nand \N{SNOWMAN} " + 200 * "x")
    assert steps(library) == []
    base, one, two = library.statuses()
    assert (base.name, base.state, base.digest) == ("base", "ready", "")
    assert (one.state, one.exactness, one.digest) == ("ready", "exact up to ties", DIGESTS[1][:8].hex())
    assert (two.state, len(two.why), two.why[:14]) == ("refused", MAX_WHY, "it is bad and ")
    assert two.reason == "it is bad and ? " + 200 * "x"
    library.follow([version("v1", VersionState.RETIRED)])
    assert steps(library, Counter(v1=1)) == [RetireVersion("v1")]
    assert [one.stage for one in library.entries] == [Stage.READY, Stage.DRAINING]
    assert steps(library) == [DropVersion("v1")]
    assert len(library.entries) == 1


def test_a_head_that_cannot_be_had_is_asked_for_again_ever_more_rarely() -> None:
    library = Library("base", "exact")
    library.follow([version("v1"), version("v2")])
    now, pauses = 0.0, []
    _, load = steps(library)
    assert isinstance(load, LoadHead)
    for _ in range(9):
        library.failed(load, "no route", now)
        other = library.next_step(Counter[str]().__getitem__, now)
        assert other == LoadHead("v2", DIGESTS[1])  # one that fails does not hold up others
        library.refused(other, "bad")
        library.follow([version("v1")])
        at = library.next_retry()
        assert at is not None
        pauses.append(at - now)
        now = at
        assert steps(library, now=now - 0.01) == []
        assert steps(library, now=now) == [load]
        library.follow([version("v1"), version("v2")])
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert library.statuses()[1].why == "no route"
    assert library.loaded(load, "exact")
    assert library.statuses()[1].why == ""


class Following(RuleBasedStateMachine):
    """A worker that does what the library says, beside a catalogue and sessions that do what they like."""

    def __init__(self) -> None:
        super().__init__()
        self.library = Library("base", "exact", OURS)
        self.named = False
        self.now = 0.0
        self.sessions = Counter[str]()
        self.open: set[str] = set()
        self.held: dict[str, bytes] = {}
        self.load: LoadHead | None = None
        self.catalogue: list[CatalogueVersion] = []

    @rule(versions=VERSIONS)
    def publish(self, versions: list[CatalogueVersion]) -> None:
        self.named = self.named or any(one.base == OURS for one in versions)
        self.catalogue = versions
        self.library.follow(versions)

    @rule()
    def work(self) -> None:
        while step := self.library.next_step(
            self.sessions.__getitem__, self.now, loading=self.load is not None
        ):
            match step:
                case LoadHead():
                    assert self.load is None
                    self.load = step
                case OpenVersion(name):
                    if name == "base" and name not in self.held:
                        assert name not in {one.name for one in self.catalogue}, "nobody looked at its base"
                        self.held[name] = b""
                    assert name in self.held
                    self.open.add(name)
                case RetireVersion(name):
                    self.open.remove(name)
                case DropVersion(name):
                    assert not self.sessions[name], "sessions lose their head"
                    assert name not in self.open
                    del self.held[name]

    @precondition(lambda self: self.load is not None)
    @rule(end=st.sampled_from(("good", "good", "bad", "away")))
    def end_load(self, end: str) -> None:
        load, self.load = self.load, None
        assert load is not None
        if end == "bad":
            self.library.refused(load, "bad")
        elif end == "away":
            self.library.failed(load, "away", self.now)
        else:
            known = self.held.get(load.name)
            if self.library.loaded(load, "exact"):
                assert known in (None, b"", load.digest), "a name passes from one head to another"
                self.held[load.name] = load.digest

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.sessions[data.draw(st.sampled_from(sorted(self.open)))] += 1

    @precondition(lambda self: self.sessions.total())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.sessions[data.draw(st.sampled_from(sorted(self.sessions.elements())))] -= 1

    @rule(seconds=st.sampled_from((0.1, 70.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def sessions_have_their_heads(self) -> None:
        assert all(name in self.held for name, count in self.sessions.items() if count)
        said = {one.name: one for one in self.library.entries}
        assert all(said[name].stage in (Stage.READY, Stage.DRAINING) for name in self.held)
        assert set(said) <= set(NAMES)

    def teardown(self) -> None:
        """In peace, what the catalogue wants and is not refused is open, and nothing else."""
        self.sessions.clear()
        for _ in range(20):
            self.now += 70
            self.work()
            if self.load is not None:
                self.end_load("good")
        wanted = {
            one.name: one.digest
            for one in self.catalogue
            if one.state is not VersionState.RETIRED and one.base == (OURS if self.named else b"")
        }
        refused = {one.name for one in self.library.entries if one.stage is Stage.REFUSED}
        own = (
            {"base"} if "base" in self.held and "base" not in {one.name for one in self.catalogue} else set()
        )
        assert self.open - own == set(wanted) - refused
        assert {name: self.held[name] for name in self.open - own} == {
            name: digest for name, digest in wanted.items() if name not in refused
        }
        unseen = {one.name for one in self.library.entries if one.why == NO_CATALOGUE}
        assert all(
            one.digest == wanted[one.name] for one in self.library.entries if one.name not in own | unseen
        )


def test_any_interleaving_of_catalogues_loads_and_sessions() -> None:
    run_state_machine_as_test(
        Following, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
    )
