"""Names of a family: which version a request's `model` asks for, and which catalogues have a fault."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from flexspec_mq.errors import UsageError
from schemas.catalogue import Catalogue, CatalogueVersion, KeySet, VersionState

STABLE = "stable"
CANARY = "canary"
CHANNELS = (STABLE, CANARY)
"""Names of a family's channels; no version may go by one of them."""
_CHANNEL = {STABLE: VersionState.STABLE, CANARY: VersionState.CANARY}


class NoSuchVersion(UsageError):
    """A name that means no version which takes new sessions."""


def resolve(catalogue: Catalogue, model: str, key: bytes) -> CatalogueVersion:
    """The version that a new session opens on.

    ``FAMILY`` is a canary for its share of keys, else the stable version. ``FAMILY:stable`` and ``FAMILY:canary`` are
    that channel, ``FAMILY:VERSION`` and ``VERSION`` that version, also one that drains.

    Args:
        catalogue: the family's.
        model: name that a request asks for.
        key: names the request's conversation, so that all of it goes to the same side of a canary.

    Raises:
        NoSuchVersion: nothing goes by that name, or only a retired version.
    """
    family = catalogue.family
    if model == family:
        return _canary_for(catalogue, key) or stable(catalogue)
    if model == f"{family}:{STABLE}":
        return stable(catalogue)
    if model == f"{family}:{CANARY}":
        canary = _canary_for(catalogue, key) or next(iter(_in_state(catalogue, VersionState.CANARY)), None)
        if canary is None:
            raise NoSuchVersion(f"{family} has no canary now", hint=_known(catalogue))
        return canary
    name = model.removeprefix(f"{family}:")
    version = next((candidate for candidate in catalogue.versions if candidate.name == name), None)
    if version is None:
        raise NoSuchVersion(f"{model!r} is no version of {family}", hint=_known(catalogue))
    if version.state is VersionState.RETIRED:
        raise NoSuchVersion(f"version {name} of {family} is retired", hint=_known(catalogue))
    return version


def stable(catalogue: Catalogue) -> CatalogueVersion:
    """The stable version."""
    return _in_state(catalogue, VersionState.STABLE)[0]


def names(catalogue: Catalogue) -> tuple[str, ...]:
    """All that `resolve` takes: the family, its channels, and each version behind the family's name."""
    channels = (name for name in CHANNELS if _in_state(catalogue, _CHANNEL[name]))
    versions = (version.name for version in catalogue.versions if version.state is not VersionState.RETIRED)
    return (catalogue.family, *(f"{catalogue.family}:{name}" for name in (*channels, *versions)))


def takes(canary: CatalogueVersion, key: bytes) -> bool:
    """Whether a key is on this canary's side. It stays there while the share grows.

    The draw depends on the canary's name, so that it is not always the same keys that try a new version.
    """
    drawn = hashlib.blake2b(
        key, digest_size=8, salt=hashlib.blake2b(canary.name.encode(), digest_size=16).digest()
    )
    return int.from_bytes(drawn.digest()) % 100 < canary.share


def _canary_for(catalogue: Catalogue, key: bytes) -> CatalogueVersion | None:
    """The first canary that takes the key; of several, each draws from what those before it left."""
    return next((canary for canary in _in_state(catalogue, VersionState.CANARY) if takes(canary, key)), None)


def _in_state(catalogue: Catalogue, state: VersionState) -> Sequence[CatalogueVersion]:
    return [version for version in catalogue.versions if version.state is state]


def _known(catalogue: Catalogue) -> str:
    return f"there are {', '.join(names(catalogue))}"


def fault_of(body: KeySet | Catalogue) -> str:
    """The fault of a key set or catalogue beyond the bounds of its type, in one line; empty if it has none."""
    if isinstance(body, KeySet):
        if len(set(body.keys)) < len(body.keys):
            return "a key is in the key set twice"
        if body.threshold > len(body.keys):
            return f"the key set asks for {body.threshold} signatures and has {len(body.keys)} keys"
        return ""
    names = Counter(version.name for version in body.versions)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        return f"version {twice[0]} is in the catalogue twice"
    taken = [name for name in (body.family, *CHANNELS) if name in names]
    if taken:
        return f"a version is called {taken[0]}, which means the family or a channel of it"
    stables = sum(version.state is VersionState.STABLE for version in body.versions)
    return "" if stables == 1 else f"the catalogue has {stables} stable versions, not one"
