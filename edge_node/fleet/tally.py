"""Sums of each version that an edge has used: acceptance with its interval, answers, errors and pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from flexspec_mq.controller.estimators.wilson import wilson
from schemas.catalogue import MAX_VERSIONS
from schemas.status import DIGEST, VersionFigures


class TargetVersion(NamedTuple):
    """A target version that writes a text.

    Attributes:
        version: name on topics.
        digest: SHA-256 of its head's manifest, in hex; empty where no catalogue tells it.
    """

    version: str
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSums:
    """Sums over sessions of a version.

    Attributes:
        answers: texts that came to their end.
        errors: texts that failed by the version's fault or its worker's.
        drafted: draft tokens that the target judged, whoever drafted them.
        accepted: draft tokens that were right.
        tokens: tokens after the first commit.
        seconds: seconds that these took.
    """

    answers: int = 0
    errors: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    seconds: float = 0.0


class VersionTally:
    """Sums over sessions, for as many versions as a catalogue can have; the one that wrote longest ago goes first."""

    def __init__(self) -> None:
        self._sums: dict[TargetVersion, VersionSums] = {}

    def add(self, target: TargetVersion, session: VersionSums) -> None:
        """Count a session that is over."""
        before = self._sums.pop(target, VersionSums())
        self._sums[target] = VersionSums(
            answers=before.answers + session.answers,
            errors=before.errors + session.errors,
            drafted=before.drafted + session.drafted,
            accepted=before.accepted + session.accepted,
            tokens=before.tokens + session.tokens,
            seconds=before.seconds + session.seconds,
        )
        while len(self._sums) > MAX_VERSIONS:
            del self._sums[next(iter(self._sums))]

    def figures(self) -> tuple[VersionFigures, ...]:
        """Figures of all versions, the last one at the end."""
        return tuple(_figures(target, sums) for target, sums in self._sums.items())


def _figures(target: TargetVersion, sums: VersionSums) -> VersionFigures:
    low, high = wilson(sums.accepted, sums.drafted)
    return VersionFigures(
        name=target.version,
        digest=target.digest[: 2 * DIGEST],
        answers=sums.answers,
        errors=sums.errors,
        drafted=sums.drafted,
        accepted=sums.accepted,
        low=low,
        high=high,
        tokens=sums.tokens,
        seconds=sums.seconds,
    )
