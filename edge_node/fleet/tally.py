"""Sums of each version that an edge has used: acceptance with its interval, answers, errors and pace."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

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


class VersionTally:
    """Sums over sessions, for as many versions as a catalogue can have; the one that wrote longest ago goes first."""

    def __init__(self) -> None:
        self._sums: dict[TargetVersion, VersionFigures] = {}

    def add(
        self,
        target: TargetVersion,
        *,
        answers: int,
        errors: int,
        drafted: int,
        accepted: int,
        tokens: int,
        seconds: float,
    ) -> None:
        """Count a session that is over; see `VersionFigures`."""
        before = self._sums.pop(
            target, VersionFigures(name=target.version, digest=target.digest[: 2 * DIGEST])
        )
        drafted, accepted = before.drafted + drafted, before.accepted + accepted
        low, high = wilson(accepted, drafted)
        self._sums[target] = replace(
            before,
            answers=before.answers + answers,
            errors=before.errors + errors,
            drafted=drafted,
            accepted=accepted,
            low=low,
            high=high,
            tokens=before.tokens + tokens,
            seconds=before.seconds + seconds,
        )
        while len(self._sums) > MAX_VERSIONS:
            del self._sums[next(iter(self._sums))]

    def figures(self) -> tuple[VersionFigures, ...]:
        """Figures of all versions, the last one at the end."""
        return tuple(self._sums.values())
