"""Statuses of edges become samples, each answer once."""

from __future__ import annotations

import random
from collections import defaultdict
from operator import attrgetter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flexspec_mq.evolution.evidence import Evidence
from schemas.status import EdgeStatus
from tests.evolution.statuses import edge_status, figures

DIGESTS = [bytes([number]) * 32 for number in range(3)]


def status(edge: str, life: int, sums: dict[int, list[int]], family: str = "fam") -> EdgeStatus:
    """`sums` are answers, errors, accepted, drafted and tokens by version."""
    versions = (figures(f"v{number}", DIGESTS[number], *told) for number, told in sums.items())
    return edge_status(*versions, edge=edge, family=family, life=life)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_each_answer_counts_once_whatever_is_lost_repeated_or_started_anew(seed: int, steps: int) -> None:
    draw, evidence = random.Random(seed), Evidence("fam")
    lives: dict[str, int] = defaultdict(int)
    told: dict[tuple[str, int], dict[int, list[int]]] = defaultdict(lambda: {0: [0] * 5, 1: [0] * 5})
    seen: dict[tuple[str, int], EdgeStatus] = {}
    for _ in range(steps):
        edge = draw.choice("ab")
        if draw.random() < 0.1:
            if draw.random() < 0.5:
                evidence.take(replace(status(edge, lives[edge], {}), state="gone"))
            lives[edge] += 1
        life = told[edge, lives[edge]]
        sums = life[draw.randrange(2)]
        drafted = draw.randrange(50)
        for index, more in enumerate((1, 0, draw.randint(0, drafted), drafted, 20)):
            sums[index] += more
        now = status(edge, lives[edge], {number: list(sums) for number, sums in life.items()})
        if draw.random() < 0.7:  # else it is lost
            evidence.take(now)
            seen[edge, lives[edge]] = now
        if seen and draw.random() < 0.3:  # retained, or late
            evidence.take(draw.choice(list(seen.values())))
    for number in (0, 1):
        wanted = [last.versions[number] for last in seen.values()]
        samples = evidence.samples(DIGESTS[number])
        for name in ("answers", "accepted", "drafted"):
            assert sum(map(attrgetter(name), samples)) == sum(map(attrgetter(name), wanted))
        assert all(abs((sample.seconds_per_token or 0) - 0.05) < 1e-9 for sample in samples)


def test_other_families_and_figures_that_cannot_be_are_left_out() -> None:
    evidence = Evidence("fam")
    evidence.take(status("a", 1, {0: [5, 0, 10, 20, 100]}, family="other"))
    evidence.take(status("b", 1, {0: [5, 0, 30, 20, 100]}))
    evidence.take(EdgeStatus(state="online", epoch=1, at=0.0, edge="c"))
    assert not evidence.samples(DIGESTS[0])


def test_a_lost_connection_counts_nothing_twice() -> None:
    """The will says what was so when the process began."""
    evidence = Evidence("fam")
    told = status("a", 1, {0: [5, 0, 10, 20, 100]})
    for taken in (told, replace(status("a", 1, {}), state="gone"), told):
        evidence.take(taken)
    assert [sample.answers for sample in evidence.samples(DIGESTS[0])] == [5]


def test_a_version_that_begins_anew_counts_only_what_comes_then() -> None:
    evidence = Evidence("fam")
    evidence.take(status("a", 1, {0: [5, 0, 10, 20, 100]}))
    evidence.forget(DIGESTS[0])
    evidence.take(status("a", 1, {0: [5, 0, 10, 20, 100]}))
    assert not evidence.samples(DIGESTS[0])
    evidence.take(status("a", 1, {0: [7, 1, 15, 30, 140]}))
    (sample,) = evidence.samples(DIGESTS[0])
    assert (sample.answers, sample.errors, sample.accepted, sample.drafted) == (2, 1, 5, 10)
