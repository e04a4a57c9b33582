"""What holds for every key set and catalogue beyond the bounds of their types."""

from __future__ import annotations

from collections import Counter

from schemas.catalogue import Catalogue, KeySet, VersionState

STABLE = "stable"
CANARY = "canary"
CHANNELS = (STABLE, CANARY)
"""Names of a family's channels; no version may go by one of them."""


def fault_of(body: KeySet | Catalogue) -> str:
    """What is wrong with it, in one line; empty if nothing is."""
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
    stable = sum(version.state is VersionState.STABLE for version in body.versions)
    return "" if stable == 1 else f"the catalogue has {stable} stable versions, not one"
