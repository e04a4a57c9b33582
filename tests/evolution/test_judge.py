"""Canaries: samples from statuses of edges, each answer once, what they prove, and what `flexspec head watch` does."""

import random
from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.analysis import (
    DEFAULT_RULE,
    LEAST,
    PROMOTE_AFTER,
    CanaryRule,
    Decision,
    Judgement,
    Sample,
    acceptance,
    judge,
)
from flexspec_mq.evolution.evidence import Evidence
from flexspec_mq.evolution.overview import Statuses
from flexspec_mq.evolution.watch import Judge
from schemas.catalogue import BASE_ID, FORMAT, Catalogue, CatalogueVersion, VersionState
from schemas.status import DIGEST, EdgeStatus, VersionStatus, WorkerStatus
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


STABLE, CANARY = bytes(32), bytes([1]) * 32
_TOKENS = 50
State = Literal["loading", "ready", "draining", "refused"]


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


def catalogue(*, canary: bool, base: bytes = b"") -> Catalogue:
    versions = [CatalogueVersion("v1", VersionState.STABLE, STABLE)]
    if canary:
        versions.append(CatalogueVersion("v2", VersionState.CANARY, CANARY, 50, base))
    return Catalogue(FORMAT, "fam", 1000, 1000, 1, "/heads", tuple(versions))


def tell(evidence: Evidence, digest: bytes, sample: Sample) -> None:
    """Have an edge tell of an answer."""
    name, tokens = "v1" if digest == STABLE else "v2", _TOKENS * sample.answers
    sums = sample.answers, sample.errors, sample.accepted, sample.drafted, tokens
    told = figures(name, digest, *sums, sample.seconds_per_token or 0.0)
    evidence.take(edge_status(told, edge=f"e{evidence.taken}"))


def decided(seed: int, before: Simulated, stable: Simulated, canary: Simulated) -> tuple[Decision, int]:
    """Decision on a canary that comes after 100 answers of the stable version, and its answers until then."""
    draw, evidence = random.Random(seed), Evidence("fam")
    judge = Judge(DEFAULT_RULE, Statuses(evidence))
    assert not list(judge.verdicts(catalogue(canary=False)))
    for _ in range(100):
        tell(evidence, STABLE, before.answer(draw))
    answers = 0
    while answers < 120:
        ((judged, verdict),) = judge.verdicts(catalogue(canary=True))
        assert judged.name == "v2"
        if verdict.decision is not Decision.WAIT:
            return verdict.decision, answers
        of_canary = draw.random() < 0.5
        answers += of_canary
        digest, version = (CANARY, canary) if of_canary else (STABLE, stable)
        tell(evidence, digest, version.answer(draw))
    return Decision.WAIT, answers


def test_a_good_canary_is_not_aborted_where_the_load_rises_as_it_comes() -> None:
    """Everything takes twice as long from then on. Beside all that the stable version did before, 4 of these were."""
    busy = Simulated(slow=0.1)
    for seed in range(20):
        decision, _ = decided(seed, Simulated(), busy, busy)
        assert decision is not Decision.ABORT


def test_a_bad_canary_is_aborted_where_the_load_falls_as_it_comes() -> None:
    """It takes three times as long as the stable version, which took four times as long before."""
    for seed in range(20):
        decision, answers = decided(seed, Simulated(slow=0.2), Simulated(), Simulated(slow=0.15))
        assert decision is Decision.ABORT
        assert LEAST <= answers <= 60


def word(base: bytes = b"", **workers: tuple[State | None, State | None]) -> tuple[Decision, str]:
    """Decision on a canary without answers, and why, by the states of stable version and canary at each worker."""
    statuses = Statuses(Evidence("fam"))
    for name, states in workers.items():
        versions = tuple(
            VersionStatus(name=version, digest=digest[:DIGEST].hex(), state=state, why="no good")
            for version, digest, state in zip(("v1", "v2"), (STABLE, CANARY), states, strict=True)
            if state is not None
        )
        statuses.workers[name] = WorkerStatus(state="online", epoch=1, at=0.0, worker=name, versions=versions)
    ((_, verdict),) = Judge(DEFAULT_RULE, statuses).verdicts(catalogue(canary=True, base=base))
    return verdict.decision, verdict.why


Said = dict[str, tuple[State | None, State | None]]


@pytest.mark.parametrize(
    ("workers", "base", "why"),
    [
        # A worker that serves its base is believed.
        ({"w1": ("ready", "refused")}, b"", "worker w1 refuses it: no good"),
        ({"w1": ("draining", "refused")}, b"", "worker w1"),
        ({"w1": ("ready", "refused"), "w2": ("ready", None)}, b"", "worker w1"),
        ({"w1": ("ready", "refused"), "w2": ("ready", "loading")}, b"", None),
        ({"w1": ("ready", "refused"), "w2": ("ready", "ready")}, b"", None),
        # A stranger that serves nothing of the family is not: it is of a base that no catalogue names.
        ({"stranger": ("refused", "refused")}, b"", None),
        ({"stranger": ("refused", "refused"), "w1": ("ready", None)}, b"", None),
        ({"stranger": ("refused", "refused"), "w1": ("loading", None)}, b"", None),
        ({"stranger": ("refused", "refused"), "w1": ("ready", "refused")}, b"", "worker w1"),
        # The canary may be the first of its base, so that nobody serves another version of it.
        ({"w1": ("ready", None), "large": (None, "refused")}, bytes([7]) * BASE_ID, "worker large"),
    ],
)
def test_which_workers_are_believed_when_they_refuse_a_canary(
    workers: Said, base: bytes, why: str | None
) -> None:
    decision, reason = word(base, **workers)
    assert decision is (Decision.WAIT if why is None else Decision.ABORT)
    assert (why or "") in reason


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


CANARIES = {
    "half the acceptance": Simulated(acceptance=0.3),
    "a third of the speed": Simulated(slow=0.15),
    "30 % errors": Simulated(errors=0.3),
    "nothing but errors": Simulated(errors=1.0),
}


@pytest.mark.parametrize("canary", CANARIES.values(), ids=CANARIES.keys())
def test_a_bad_canary_is_aborted_within_60_answers(canary: Simulated) -> None:
    """20 runs of each kind. In 300 runs of each, 2 with half the acceptance were not aborted, of the others none."""
    for seed in range(20):
        verdict, answers = run(canary, seed)
        assert verdict.decision is Decision.ABORT, (seed, verdict)
        assert LEAST <= answers <= 60


def test_good_canaries_are_not_aborted_and_are_promoted() -> None:
    """20, to the end."""
    assert all(run(Simulated(), seed, answers=200)[0].decision is Decision.PROMOTE for seed in range(20))


def test_hardly_any_good_canary_is_aborted() -> None:
    """200 runs of 60 answers, judged after each answer: with these seeds none is aborted."""
    # Nor is any promoted: there were less answers than that asks for.
    assert all(run(Simulated(), seed)[0].decision is Decision.WAIT for seed in range(200))


def test_a_canary_beyond_a_bound_is_never_promoted() -> None:
    """Slower than allowed, or accepted less, but so little that nothing proves it."""
    for canary in (Simulated(acceptance=0.42), Simulated(slow=0.09)):
        for seed in range(20):
            assert run(canary, seed, answers=150)[0].decision is not Decision.PROMOTE


def test_edges_that_tell_of_several_answers_at_once_say_less_and_nothing_else() -> None:
    shares = (40, 60, 70, 50, 80, 60)
    fine = acceptance([Sample(1, accepted, 100, 0, 0.05) for accepted in shares] * 5)
    coarse = acceptance([Sample(6, sum(shares), 600, 0, 0.05)] * 5)
    assert fine is not None
    assert coarse is not None
    assert fine.mean == coarse.mean == 0.6
    assert fine.bounds[0] < 0.6 < fine.bounds[1]


def test_nothing_is_decided_below_the_least_number_of_answers() -> None:
    failed = [Sample(0, 0, 0, 1)] * (LEAST - 1)
    stable = [Sample(1, 50, 100, 0, 0.05)] * 100
    assert judge(DEFAULT_RULE, stable, failed).decision is Decision.WAIT
    assert judge(DEFAULT_RULE, stable, [*failed, failed[0]]).decision is Decision.ABORT
    assert judge(DEFAULT_RULE, stable[: LEAST - 1], failed * 2).decision is Decision.WAIT


def test_a_canary_that_is_never_drafted_for_waits_for_people() -> None:
    stable = [Sample(1, 50, 100, 0, 0.05)] * 200
    assert judge(DEFAULT_RULE, stable, [Sample(1, 0, 0, 0, 0.05)] * 200).decision is Decision.WAIT
    nobody_drafts = [Sample(1, 0, 0, 0, 0.05)] * 200
    assert judge(DEFAULT_RULE, nobody_drafts, nobody_drafts).decision is Decision.PROMOTE


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    answers, errors = draw(st.integers(0, 1000)), draw(st.integers(0, 20))
    drafted = draw(st.integers(0, 10_000))
    times = st.none() | st.floats(1e-6, 1e3)
    return Sample(answers, draw(st.integers(0, drafted)), drafted, errors, draw(times))


@given(st.lists(samples(), max_size=30), st.lists(samples(), max_size=30))
def test_any_samples_give_a_verdict_that_says_why(stable: list[Sample], canary: list[Sample]) -> None:
    verdict = judge(DEFAULT_RULE, stable, canary)
    assert verdict.why
    if verdict.decision is Decision.PROMOTE:
        assert sum(sample.tries for sample in canary) >= PROMOTE_AFTER


@pytest.mark.parametrize("values", [{"keep": -0.1}, {"slower": 0.5}, {"slower": float("nan")}])
def test_a_rule_that_cannot_be_decided_by_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="--"):
        CanaryRule(**values)
