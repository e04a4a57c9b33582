"""Answers of simulated versions, whose prompts, lengths and times vary, and statuses that tell of answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from flexspec_mq.evolution.analysis import DEFAULT_RULE, Decision, Judgement, Sample, judge
from schemas.status import DIGEST, CatalogueStatus, EdgeStatus, VersionFigures


@dataclass(frozen=True)
class Simulated:
    """How a version answers.

    Attributes:
        acceptance: mean over prompts.
        vary: standard deviation of the acceptance over prompts, at an acceptance of 0.6.
        slow: seconds per token, in the median.
        jitter: standard deviation of the logarithm of seconds per token.
        errors: share of answers that fail.
    """

    acceptance: float = 0.6
    vary: float = 0.18
    slow: float = 0.05
    jitter: float = 0.5
    errors: float = 0.005

    def answer(self, draw: random.Random) -> Sample:
        """An answer, or one that failed."""
        if draw.random() < self.errors:
            return Sample(0, 0, 0, 1)
        concentration = 0.6 * 0.4 / self.vary**2 - 1
        share = draw.betavariate(self.acceptance * concentration, (1 - self.acceptance) * concentration)
        drafted = int(draw.lognormvariate(4.5, 0.8)) + 1
        accepted = sum(draw.random() < share for _ in range(drafted))
        return Sample(1, accepted, drafted, 0, self.slow * draw.lognormvariate(0, self.jitter))


BAD = {
    "half the acceptance": Simulated(acceptance=0.3),
    "a third of the speed": Simulated(slow=0.15),
    "30 % errors": Simulated(errors=0.3),
}


def figures(
    name: str,
    digest: bytes,
    answers: int,
    errors: int,
    accepted: int,
    drafted: int,
    tokens: int = 0,
    seconds_per_token: float = 0.05,
) -> VersionFigures:
    """Sums that an edge tells of a version."""
    return VersionFigures(
        name=name,
        digest=digest[:DIGEST].hex(),
        answers=answers,
        errors=errors,
        accepted=accepted,
        drafted=drafted,
        tokens=tokens,
        seconds=tokens * seconds_per_token,
    )


def edge_status(*versions: VersionFigures, edge: str = "e", family: str = "fam", life: int = 0) -> EdgeStatus:
    """Status of an edge that has written with these versions."""
    catalogue = CatalogueStatus(family=family, state="current")
    return EdgeStatus(
        state="online", epoch=5, at=0.0, edge=edge, catalogue=catalogue, versions=versions, life=life
    )


def run(canary: Simulated, seed: int, *, answers: int = 60) -> tuple[Judgement, int]:
    """Judge after each status, as `watch` does; the last verdict, and how many answers the canary had then."""
    draw = random.Random(seed)
    ours: list[Sample] = []
    theirs: list[Sample] = []
    verdict = Judgement(Decision.WAIT, "")
    while sum(sample.tries for sample in ours) < answers:
        version, into = (canary, ours) if draw.random() < 0.5 else (Simulated(), theirs)
        into.append(version.answer(draw))
        verdict = judge(DEFAULT_RULE, theirs, ours)
        if verdict.decision is not Decision.WAIT:
            break
    return verdict, sum(sample.tries for sample in ours)
