"""From one catalogue to the next. Each edit gives a catalogue that is issued now and that keeps all invariants.

An edit that cannot be made, as a version is not there, retired or so already, raises `UsageError`; so does one that
would break an invariant. Everywhere `now` is in seconds since the Unix epoch.
"""

from typing import Final

import msgspec

from flexspec_mq.catalogue.naming import stable
from flexspec_mq.catalogue.signing import encode
from flexspec_mq.errors import UsageError
from schemas.catalogue import FORMAT, Catalogue, CatalogueVersion, VersionState

KEPT_RETIRED: Final = 2
"""Retired versions that the next `publish` leaves in the catalogue, so that it stays small. The last one of the
family's own base stays as well, as its manifest says which base that is."""

_ALL: Final = 100
"""Percent of new sessions."""


def begin(
    family: str, *, name: str, digest: bytes, heads: str, lifetime: int, key_set: int, now: float
) -> Catalogue:
    """The first catalogue of a family, with one version, which is stable.

    Args:
        family: name of the family.
        name: name of the version.
        digest: digest of its head's manifest, 32 bytes.
        heads: URL below which heads lie.
        lifetime: seconds after which a catalogue must have been signed anew.
        key_set: serial of the key set under which it will be signed.
        now: seconds since the Unix epoch.
    """
    first = CatalogueVersion(name, VersionState.STABLE, digest)
    return _checked(Catalogue(FORMAT, family, int(now), lifetime, key_set, heads, (first,)))


def publish(
    catalogue: Catalogue,
    now: float,
    *,
    name: str,
    digest: bytes,
    state: VersionState = VersionState.CANARY,
    share: int = 10,
    base: bytes = b"",
) -> Catalogue:
    """Add a version, or change the state or share of one.

    Args:
        catalogue: the one before.
        now: seconds since the Unix epoch.
        name: name of the version.
        digest: digest of its head's manifest, 32 bytes.
        state: new state; with `STABLE` the present stable version drains.
        share: percent of new sessions that it takes as a canary; else without meaning.
        base: id of a new version's base, where it is not the family's.
    """
    others = {
        version.name: version.share
        for version in catalogue.versions
        if version.name != name and version.share
    }
    if state is VersionState.CANARY and (total := share + sum(others.values())) > _ALL:
        taken = ", ".join(f"{version} {percent} %" for version, percent in others.items())
        raise UsageError(
            f"canaries of {catalogue.family} would take {total} % of new sessions: {taken}, {name} {share} %",
            hint=f"give it --share {_ALL - sum(others.values())} or less, or retire another canary first",
        )
    known = {version.name: version for version in catalogue.versions}
    if name in known and known[name].digest != digest:
        raise UsageError(
            f"version {name} of {catalogue.family} has another head", hint="give the new head another name"
        )
    retired = [
        version.name
        for version in catalogue.versions
        if version.state is VersionState.RETIRED and version.name != name
    ]
    forgotten = set(retired[:-KEPT_RETIRED])
    own = [version.name for version in catalogue.versions if not version.base]
    if forgotten.issuperset(own):
        forgotten.discard(own[-1])
    versions = [version for version in catalogue.versions if version.name not in forgotten]
    if name not in known:
        versions.append(CatalogueVersion(name, VersionState.DRAINING, digest, base=base))
    return _moved(
        msgspec.structs.replace(catalogue, versions=tuple(versions)), now, {name: state}, share=share
    )


def promote(catalogue: Catalogue, now: float, name: str) -> Catalogue:
    """Make a canary, or a version that drains, the stable one; the present one drains."""
    version = _existing(catalogue, name)
    if version.state is VersionState.STABLE:
        raise UsageError(f"version {name} of {catalogue.family} is stable already")
    return _moved(catalogue, now, {name: VersionState.STABLE})


def rollback(catalogue: Catalogue, now: float, name: str) -> Catalogue:
    """Leave new sessions this version alone: it is stable, and the present stable one and all canaries drain."""
    version = _existing(catalogue, name)
    canaries = {other.name for other in catalogue.versions if other.state is VersionState.CANARY} - {name}
    if version.state is VersionState.STABLE and not canaries:
        raise UsageError(
            f"version {name} of {catalogue.family} is stable and there is no canary",
            hint="name an earlier version, to go back to it",
        )
    drained = dict.fromkeys(canaries, VersionState.DRAINING)
    return _moved(catalogue, now, {**drained, name: VersionState.STABLE})


def drain(catalogue: Catalogue, now: float, name: str) -> Catalogue:
    """Give a canary no more new sessions but those that name it."""
    if _existing(catalogue, name).state is not VersionState.CANARY:
        raise UsageError(f"version {name} of {catalogue.family} is no canary")
    return _moved(catalogue, now, {name: VersionState.DRAINING})


def retire(catalogue: Catalogue, now: float, name: str) -> Catalogue:
    """Give a version no new sessions at all, so that workers may drop it when its last one has ended."""
    if _existing(catalogue, name).state is VersionState.STABLE:
        raise UsageError(
            f"version {name} of {catalogue.family} is the stable one", hint="promote another version first"
        )
    return _moved(catalogue, now, {name: VersionState.RETIRED})


def renewed(catalogue: Catalogue, now: float) -> Catalogue:
    """The same, issued now."""
    return _checked(msgspec.structs.replace(catalogue, epoch=max(int(now), catalogue.epoch + 1)))


def _existing(catalogue: Catalogue, name: str) -> CatalogueVersion:
    """A version that is there and not retired."""
    version = next((candidate for candidate in catalogue.versions if candidate.name == name), None)
    if version is None:
        known = ", ".join(candidate.name for candidate in catalogue.versions)
        raise UsageError(f"{catalogue.family} has no version {name!r}", hint=f"there are {known}")
    if version.state is VersionState.RETIRED:
        raise UsageError(f"version {name} of {catalogue.family} is retired", hint="publish it again first")
    return version


def _moved(catalogue: Catalogue, now: float, states: dict[str, VersionState], *, share: int = 0) -> Catalogue:
    """The next catalogue with versions in other states; a stable version that another takes the place of drains."""
    if VersionState.STABLE in states.values():
        states = {stable(catalogue).name: VersionState.DRAINING, **states}
    versions = []
    for version in catalogue.versions:
        if version.name in states:
            state = states[version.name]
            taken = share if state is VersionState.CANARY else 0
            versions.append(msgspec.structs.replace(version, state=state, share=taken))
        else:
            versions.append(version)
    return renewed(msgspec.structs.replace(catalogue, versions=tuple(versions)), now)


def _checked(catalogue: Catalogue) -> Catalogue:
    encode(catalogue)
    return catalogue
