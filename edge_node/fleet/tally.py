"""What an edge has seen of each version: acceptance with its interval, answers, errors and pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from flexspec_mq.controller.estimators.wilson import wilson
from schemas.catalogue import MAX_VERSIONS
from schemas.status import DIGEST, VersionFigures


class TargetVersion(NamedTuple):
    """What writes a text.

    Attributes:
        version: on topics.
        digest: of its head's manifest, in hex; empty where no catalogue tells it.
    """

    version: str
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote:
    """What one session has shown of its version.

    Attributes:
        complete: the text came to its end.
        failed: by the version's fault or its worker's.
        drafted: draft tokens that the target judged, whoever drafted them.
        accepted: of these, right.
        tokens: after the first commit.
        seconds: that these took.
    """

    complete: bool
    failed: bool
    drafted: int
    accepted: int
    tokens: int
    seconds: float

    @property
    def shows(self) -> bool:
        """Whether it says anything; a session that ended before it began does not."""
        return self.complete or self.failed or self.drafted > 0 or self.tokens > 0


@dataclass(slots=True)
class _Sums:
    answers: int = 0
    errors: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    seconds: float = 0.0


class VersionTally:
    """Sums over sessions, for as many versions as a catalogue can have; the one that wrote longest ago goes first."""

    def __init__(self) -> None:
        self._sums: dict[TargetVersion, _Sums] = {}

    def add(self, target: TargetVersion, wrote: Wrote) -> None:
        """Count a session that is over."""
        sums = self._sums.pop(target, None) or _Sums()
        self._sums[target] = sums
        while len(self._sums) > MAX_VERSIONS:
            del self._sums[next(iter(self._sums))]
        sums.answers += wrote.complete
        sums.errors += wrote.failed
        sums.drafted += wrote.drafted
        sums.accepted += wrote.accepted
        sums.tokens += wrote.tokens
        sums.seconds += wrote.seconds

    def figures(self) -> tuple[VersionFigures, ...]:
        """Of all versions, the last one at the end."""
        return tuple(_figures(target, sums) for target, sums in self._sums.items())


def _figures(target: TargetVersion, sums: _Sums) -> VersionFigures:
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
