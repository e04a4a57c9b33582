"""Edits of a catalogue: what each does, and what holds after any of them."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.catalogue.editing import (
    KEPT_RETIRED,
    begin,
    drain,
    promote,
    publish,
    renewed,
    retire,
    rollback,
)
from flexspec_mq.catalogue.naming import fault_of
from flexspec_mq.catalogue.signing import seal
from flexspec_mq.errors import UsageError
from schemas.catalogue import Catalogue, VersionState
from tests.catalogue.family import DAY, FAMILY, HEADS, NOW, ONLINE, following, give

LATER = NOW + 60


def digest(name: str) -> bytes:
    return name.encode().ljust(32)


def first() -> Catalogue:
    return begin(FAMILY, name="base", digest=digest("base"), heads=HEADS, lifetime=DAY, key_set=1, now=NOW)


def published(catalogue: Catalogue, name: str, **more: Any) -> Catalogue:
    return publish(catalogue, LATER, name=name, digest=digest(name), **more)


def states(catalogue: Catalogue) -> dict[str, str]:
    return {version.name: version.state.name.lower() for version in catalogue.versions}


def test_a_family_begins_with_a_stable_version() -> None:
    assert states(first()) == {"base": "stable"}
    assert first().epoch == NOW
    with pytest.raises(UsageError, match="means the family"):
        begin(FAMILY, name=FAMILY, digest=digest("x"), heads=HEADS, lifetime=DAY, key_set=1, now=NOW)


def test_a_canary_is_published_grows_and_is_promoted() -> None:
    catalogue = published(first(), "new")
    assert states(catalogue) == {"base": "stable", "new": "canary"}
    assert catalogue.versions[1].share == 10
    catalogue = published(catalogue, "new", share=50)
    assert catalogue.versions[1].share == 50
    catalogue = promote(catalogue, LATER, "new")
    assert states(catalogue) == {"base": "draining", "new": "stable"}
    assert catalogue.versions[1].share == 0


def test_canaries_take_no_more_than_all_new_sessions() -> None:
    catalogue = published(published(first(), "new", share=70), "other", share=20)
    with pytest.raises(
        UsageError, match="would take 101 % of new sessions: new 70 %, other 20 %, third 11 %"
    ) as refused:
        published(catalogue, "third", share=11)
    assert "--share 10" in refused.value.hint
    full = published(catalogue, "third", share=10)
    # A version's former share does not count beside its new one, nor does the share of a draining version.
    assert published(full, "new", share=30).versions[1].share == 30
    assert published(drain(full, LATER, "new"), "fourth", share=70).versions[-1].share == 70
    assert states(published(full, "fifth", state=VersionState.STABLE))["fifth"] == "stable"


def test_rolling_back_leaves_one_version_to_new_sessions() -> None:
    catalogue = published(promote(published(first(), "a"), LATER, "a"), "b")
    assert states(rollback(catalogue, LATER, "a")) == {"base": "draining", "a": "stable", "b": "draining"}
    assert states(rollback(catalogue, LATER, "base")) == {"base": "stable", "a": "draining", "b": "draining"}
    assert states(rollback(catalogue, LATER, "b")) == {"base": "draining", "a": "draining", "b": "stable"}
    with pytest.raises(UsageError, match="name an earlier version"):
        rollback(first(), LATER, "base")


def test_one_canary_of_several_drains() -> None:
    catalogue = published(published(first(), "a"), "b")
    assert states(drain(catalogue, LATER, "a")) == {"base": "stable", "a": "draining", "b": "canary"}
    with pytest.raises(UsageError, match="is no canary"):
        drain(catalogue, LATER, "base")


def test_a_retired_version_comes_back_only_when_it_is_published_again() -> None:
    catalogue = retire(published(first(), "a"), LATER, "a")
    assert states(catalogue) == {"base": "stable", "a": "retired"}
    for edit in (promote, rollback, drain, retire):
        with pytest.raises(UsageError, match="publish it again first"):
            edit(catalogue, LATER, "a")
    assert states(published(catalogue, "a")) == {"base": "stable", "a": "canary"}
    with pytest.raises(UsageError, match="another head"):
        publish(catalogue, LATER, name="a", digest=digest("b"))


def test_the_stable_version_stays_until_another_is() -> None:
    catalogue = published(first(), "a")
    with pytest.raises(UsageError, match="promote another"):
        retire(catalogue, LATER, "base")
    with pytest.raises(UsageError, match="0 stable"):
        published(catalogue, "base")
    with pytest.raises(UsageError, match="stable already"):
        promote(catalogue, LATER, "base")
    with pytest.raises(UsageError, match="there are base, a"):
        promote(catalogue, LATER, "c")


def test_retired_versions_are_forgotten_so_that_the_message_stays_small() -> None:
    catalogue = first()
    for number in range(20):
        catalogue = published(catalogue, f"v{number}", state=VersionState.STABLE)
        if number:
            catalogue = retire(catalogue, LATER, f"v{number - 1}")
        assert len(catalogue.versions) <= 3 + KEPT_RETIRED
    assert states(catalogue) == {
        "base": "draining",
        "v17": "retired",
        "v18": "retired",
        "v16": "retired",
        "v19": "stable",
    }


def test_of_the_familys_own_base_one_version_stays() -> None:
    """Also where the family has moved to another base for good."""
    catalogue = published(first(), "w0", state=VersionState.STABLE, base=b"four")
    catalogue = retire(catalogue, LATER, "base")
    for number in range(1, 6):
        catalogue = published(catalogue, f"w{number}", state=VersionState.STABLE, base=b"four")
        catalogue = retire(catalogue, LATER, f"w{number - 1}")
    assert states(catalogue)["base"] == "retired"
    assert len(catalogue.versions) <= 3 + KEPT_RETIRED
    assert {version.base for version in catalogue.versions[1:]} == {b"four"}


def test_a_renewed_catalogue_says_the_same() -> None:
    catalogue = published(first(), "a")
    again = renewed(catalogue, NOW + DAY)
    assert again == msgspec.structs.replace(catalogue, epoch=NOW + DAY)
    assert renewed(again, NOW).epoch == NOW + DAY + 1  # a clock that was set back


NAMES = st.sampled_from(("base", "a", "b", "c", "d", "stable", FAMILY, "no/name"))
EDITS: st.SearchStrategy[Callable[[Catalogue, int], Catalogue]] = st.one_of(
    st.builds(
        lambda name, head, state, share, base: (
            lambda catalogue, now: publish(
                catalogue, now, name=name, digest=digest(head), state=state, share=share, base=base
            )
        ),
        NAMES,
        st.sampled_from(("x", "y")),
        st.sampled_from(VersionState),
        st.integers(0, 100),
        st.sampled_from((b"", b"four")),
    ),
    *(
        st.builds(lambda name, edit=edit: lambda catalogue, now: edit(catalogue, now, name), NAMES)
        for edit in (promote, rollback, drain, retire)
    ),
    st.just(renewed),
)


@given(st.lists(st.tuples(EDITS, st.integers(-100, 1000)), max_size=25))
def test_what_holds_after_any_edits(edits: list[tuple[Callable[[Catalogue, int], Catalogue], int]]) -> None:
    """Followers take up each catalogue, epochs rise, and no version's name comes to mean another head."""
    before, now = first(), NOW
    follower = following(seal(before, [ONLINE]))
    for edit, passed in edits:
        now += max(0, passed)
        try:
            after = edit(before, now + min(0, passed))
        except UsageError:
            continue
        assert fault_of(after) == ""
        assert after.epoch > before.epoch
        assert all(version.share == 0 or version.state is VersionState.CANARY for version in after.versions)
        heads = {version.name: version.digest for version in before.versions}
        assert all(heads.get(version.name, version.digest) == version.digest for version in after.versions)
        bases = {version.name: version.base for version in before.versions}
        assert all(bases.get(version.name, version.base) == version.base for version in after.versions)
        assert not all(version.base for version in after.versions), "nobody knows which base the family has"
        gone = {version.name for version in before.versions} - {version.name for version in after.versions}
        assert all(states(before)[name] == "retired" for name in gone)
        give(follower, seal(after, [ONLINE]), now)
        assert follower.catalogue == after
        before = after
