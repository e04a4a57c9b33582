"""Names of versions and channels: the version that each resolves to, and the conversations that try a canary."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.catalogue import editing, naming
from flexspec_mq.catalogue.naming import NoSuchVersion, names, resolve, takes
from schemas.catalogue import Catalogue, VersionState
from tests.catalogue.family import FAMILY, NOW, VERSIONS, catalogue, version

KEYS = st.binary(max_size=40)
DRAINING, STABLE, CANARY, RETIRED = VERSIONS


def with_canaries(*shares: int) -> Catalogue:
    canaries = [version(f"c{number}", VersionState.CANARY, share) for number, share in enumerate(shares)]
    return catalogue(versions=(DRAINING, STABLE, *canaries, RETIRED))


@given(KEYS)
def test_channels_and_versions(key: bytes) -> None:
    family = catalogue()
    assert resolve(family, f"{FAMILY}:stable", key) == STABLE
    assert resolve(family, f"{FAMILY}:canary", key) == CANARY
    for wanted in (DRAINING, STABLE, CANARY):
        for name in (wanted.name, f"{FAMILY}:{wanted.name}"):
            assert resolve(family, name, key) == wanted
    assert resolve(family, FAMILY, key) == (CANARY if takes(CANARY, key) else STABLE)
    of_two = with_canaries(30, 30)
    given = resolve(of_two, FAMILY, key)
    if given.state is VersionState.CANARY:
        assert resolve(of_two, f"{FAMILY}:canary", key) == given


def test_a_name_without_a_version_is_told_with_those_that_have_one() -> None:
    retired = (RETIRED.name, f"{FAMILY}:{RETIRED.name}")
    doubled = (f"{FAMILY}:{FAMILY}:stable", f"{FAMILY}:{FAMILY}", f"{STABLE.name}:stable")
    unknown = ("other", "", "stable", f"{FAMILY}:", f"other:{STABLE.name}", *doubled)
    for names_, why in ((retired, "is retired"), (unknown, "is no version of smol")):
        for name in names_:
            with pytest.raises(NoSuchVersion, match=why) as refused:
                resolve(catalogue(), name, b"")
            assert f"there are {FAMILY}, {FAMILY}:stable, {FAMILY}:canary" in refused.value.hint


def test_a_channel_without_a_version_is_told() -> None:
    with pytest.raises(NoSuchVersion, match="no canary now"):
        resolve(with_canaries(), f"{FAMILY}:canary", b"")
    assert f"{FAMILY}:canary" not in names(with_canaries())


@given(KEYS, st.lists(st.integers(0, 100), max_size=3))
def test_every_listed_name_means_a_version_that_takes_sessions(key: bytes, shares: list[int]) -> None:
    family = with_canaries(*shares)
    listed = names(family)
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert resolve(family, name, key).state is not VersionState.RETIRED
    for name in (FAMILY, f"{FAMILY}:stable", f"{FAMILY}:canary"):
        if name in listed:
            assert resolve(family, name, key).state in (VersionState.STABLE, VersionState.CANARY)


@given(KEYS, st.lists(st.integers(0, 100), min_size=2, max_size=8).map(sorted))
def test_once_with_the_canary_always_with_it_while_its_share_grows(key: bytes, shares: list[int]) -> None:
    sides = [resolve(with_canaries(share), FAMILY, key).name for share in shares]
    assert sides == sorted(sides, reverse=True)  # "math-r16" … "c0": never back
    assert resolve(with_canaries(0), FAMILY, key) == STABLE
    assert resolve(with_canaries(100), FAMILY, key).name == "c0"


@given(KEYS, st.integers(0, 100), st.integers(1, 10**6))
def test_a_conversation_stays_on_its_side_while_catalogues_are_renewed(
    key: bytes, share: int, later: int
) -> None:
    family = with_canaries(share)
    renewed = editing.renewed(family, NOW + later)
    reversed_ = msgspec.structs.replace(renewed, versions=renewed.versions[::-1])
    for later_one in (renewed, reversed_):
        assert resolve(later_one, FAMILY, key) == resolve(family, FAMILY, key)


@pytest.mark.parametrize("share", [1, 10, 50, 90, 99])
def test_a_canary_takes_its_share_of_the_keys(share: int) -> None:
    """20,000 fixed keys: five standard deviations are at most 1.8 %."""
    count = 20_000
    canary = version("new", VersionState.CANARY, share)
    taken = sum(takes(canary, number.to_bytes(4)) for number in range(count))
    deviation = (share / 100 * (1 - share / 100) / count) ** 0.5
    assert abs(taken / count - share / 100) < 5 * deviation


def test_each_canary_is_tried_by_other_keys() -> None:
    """Two canaries of half the keys share a quarter, not a half: the draws are apart."""
    one, two = (version(name, VersionState.CANARY, 50) for name in ("one", "two"))
    both = sum(
        takes(one, key) and takes(two, key) for key in (number.to_bytes(4) for number in range(10_000))
    )
    assert abs(both / 10_000 - 0.25) < 0.022


def test_a_draw_is_the_same_everywhere() -> None:
    """Edges of all releases must draw alike, or a conversation that moves to another edge changes its version."""
    canary = version("json-r16", VersionState.CANARY, 50)
    assert [takes(canary, bytes([number])) for number in range(16)] == [
        bool(int(bit)) for bit in "1110100101111000"
    ]
    assert naming.stable(catalogue()) == STABLE
