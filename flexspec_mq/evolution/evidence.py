"""From the statuses of edges to samples of each version. Sans-IO."""

from collections import deque
from collections.abc import Sequence

from flexspec_mq.daemon.expiring import ExpiringMap
from flexspec_mq.evolution.analysis import Sample
from flexspec_mq.protocol.incarnations import Incarnations, incarnation_of
from schemas.status import DIGEST, EdgeStatus, VersionFigures

_MOST_EDGES = 10_000
_MOST_SAMPLES = 1000
"""Samples of one version; the oldest are forgotten."""
_MOST_VERSIONS = 64


class Evidence:
    """Samples of a family's versions, from what edges have told; those of other families are left out.

    An edge tells sums since its start. The first status of a process is one sample of each version; each later one, a
    sample of those that have written since. A status that was seen before, or is of an earlier process, adds nothing.

    Attributes:
        taken: number of samples so far, of all versions.
    """

    def __init__(self, family: str) -> None:
        self._family = family
        self._edges = ExpiringMap[str, tuple[Incarnations, dict[str, VersionFigures]]](most=_MOST_EDGES)
        self._samples: ExpiringMap[str, deque[tuple[int, Sample]]] = ExpiringMap(most=_MOST_VERSIONS)
        self.taken = 0

    def samples(self, digest: bytes, since: int = 0) -> Sequence[Sample]:
        """Samples of a version, by the digest of its head's manifest, from when `taken` was `since`."""
        samples = self._samples.get(_beginning(digest), 0.0) or ()
        return tuple(sample for number, sample in samples if number >= since)

    def forget(self, digest: bytes) -> None:
        """Let a version begin anew."""
        self._samples.pop(_beginning(digest))

    def take(self, status: EdgeStatus) -> None:
        """Add what a status tells that was not told before."""
        if status.catalogue is None or status.catalogue.family != self._family:
            return
        edge, before = self._edges.get(status.edge, 0.0) or (Incarnations(), {})
        known = edge.current
        if incarnation_of(status) in edge.over or not edge.take(status) or edge.gone:
            return  # a will tells the figures of its process's beginning
        if known != edge.current:
            before = {}
        self._edges.put(status.edge, (edge, {figures.digest: figures for figures in status.versions}), 0.0)
        for figures in status.versions:
            sample = _between(before.get(figures.digest, VersionFigures(name=figures.name)), figures)
            if sample is not None:
                samples = self._samples.get(figures.digest, 0.0) or deque(maxlen=_MOST_SAMPLES)
                samples.append((self.taken, sample))
                self.taken += 1
                self._samples.put(figures.digest, samples, 0.0)


def _beginning(digest: bytes) -> str:
    """The beginning of a digest, as statuses tell it."""
    return digest[:DIGEST].hex()


def _between(before: VersionFigures, after: VersionFigures) -> Sample | None:
    """The answers between two statuses; None if there are none, or if they do not fit each other."""
    answers, errors = after.answers - before.answers, after.errors - before.errors
    accepted, drafted = after.accepted - before.accepted, after.drafted - before.drafted
    tokens, seconds = after.tokens - before.tokens, after.seconds - before.seconds
    if (
        min(answers, errors, accepted, drafted, tokens, seconds) < 0
        or accepted > drafted
        or answers + errors == 0
    ):
        return None
    return Sample(answers, accepted, drafted, errors, seconds / tokens if tokens and seconds else None)
