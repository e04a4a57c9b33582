"""What an edge has seen of its versions."""

from __future__ import annotations

from edge_node.status import VersionTally
from flexspec_mq.controller.estimators.wilson import wilson
from schemas.catalogue import MAX_VERSIONS
from schemas.status import VersionFigures


def wrote(
    tally: VersionTally, name: str, digest: str = "", *, complete: bool = True, failed: bool = False
) -> None:
    sums = {"drafted": 8, "accepted": 6, "tokens": 20, "seconds": 0.5}
    tally.add(VersionFigures(name=name, digest=digest, answers=complete, errors=failed, **sums))  # type: ignore[arg-type]


def test_sums_are_by_name_and_digest_and_bounded() -> None:
    tally = VersionTally()
    wrote(tally, "v", "aa")
    wrote(tally, "v", "bb", complete=False, failed=True)
    wrote(tally, "v", "aa", complete=False)
    other, one = tally.figures()
    assert (one.name, one.digest, one.answers, one.errors) == ("v", "aa", 1, 0)
    assert (one.drafted, one.accepted, one.tokens, one.seconds) == (16, 12, 40, 1.0)
    assert (one.low, one.high) == wilson(12, 16)
    assert (other.digest, other.answers, other.errors) == ("bb", 0, 1)
    for number in range(MAX_VERSIONS):
        wrote(tally, f"v{number}")
    assert [figures.name for figures in tally.figures()] == [f"v{number}" for number in range(MAX_VERSIONS)]
