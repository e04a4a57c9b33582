"""Whether a canary is as good as the stable version, from what edges tell of their answers. Pure.

Three things are compared: the share of drafted tokens that are accepted, seconds per token, and errors. Each has a
bound that the canary must keep, relative to the stable version. A canary is aborted when even the favourable end of
the confidence interval is beyond a bound, promoted when even the unfavourable ends keep all of them, and watched on
else. So a canary that is as good as the stable one is aborted only if chance carries it over the whole way from there
to a bound and the interval's width beyond.

Edges tell sums, not single answers. A sample of `m` answers gives one estimate of how much single answers vary (its
squared residual, divided by `m`); as few samples give a poor one, it is averaged with what is assumed before, which
counts for `_PRIOR` samples: for the acceptance a standard deviation half as large as of answers that are accepted
wholly or not at all, and 0.5 for the logarithm of seconds per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import exp, inf, log, sqrt
from statistics import NormalDist
from typing import NamedTuple

from flexspec_mq.controller.estimators.wilson import wilson
from flexspec_mq.errors import UsageError

LEAST = 20
"""Answers of each of the two versions, failed ones included, below which nothing is decided."""
PROMOTE_AFTER = 100
"""Answers of the canary before it is promoted."""
CONFIDENCE = 0.99
"""Confidence of each bound, one-sided."""
MORE_ERRORS = 0.05
"""Share of answers that may fail beyond the stable version's share."""
_Z = NormalDist().inv_cdf(CONFIDENCE)
_PRIOR = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Answers of one edge with one version between two of its statuses.

    Attributes:
        answers: answers that ended, without those that failed.
        accepted: drafted tokens that were accepted.
        drafted: drafted tokens.
        errors: answers that failed.
        seconds_per_token: mean over all its tokens; None where there was none.
    """

    answers: int
    accepted: int
    drafted: int
    errors: int = 0
    seconds_per_token: float | None = None

    @property
    def tries(self) -> int:
        """Answers, and those that failed."""
        return self.answers + self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRule:
    """Bounds that a canary must keep.

    Attributes:
        keep: share of the stable version's acceptance that the canary must keep.
        slower: times the stable version's seconds per token that the canary may take.

    Raises:
        UsageError: a bound says nothing.
    """

    keep: float = 0.8
    slower: float = 1.5

    def __post_init__(self) -> None:
        for flag, value, low, high in (("--keep", self.keep, 0, 1), ("--slower", self.slower, 1, inf)):
            if not low <= value <= high:
                raise UsageError(f"{flag} {value:g} is not between {low:g} and {high:g}")


DEFAULT_RULE = CanaryRule()


class Decision(StrEnum):
    """The fate of a canary."""

    WAIT = "wait"
    PROMOTE = "promote"
    ABORT = "abort"


class Judgement(NamedTuple):
    """A decision on a canary, and why."""

    decision: Decision
    why: str


class Estimate(NamedTuple):
    """A mean and its variance."""

    mean: float
    variance: float

    @property
    def bounds(self) -> tuple[float, float]:
        """The confidence interval."""
        spread = _Z * sqrt(self.variance)
        return self.mean - spread, self.mean + spread

    def __str__(self) -> str:
        low, high = self.bounds
        return f"{self.mean:.3g} ({low:.3g} to {high:.3g})"


def judge(rule: CanaryRule, stable: Sequence[Sample], canary: Sequence[Sample]) -> Judgement:
    """Decide on a canary.

    The samples of the stable version are of about the same time.
    """
    tried, before = (sum(sample.tries for sample in samples) for samples in (canary, stable))
    if tried < LEAST or before < LEAST:
        why = f"{tried} answers of the canary and {before} of the stable version, of {LEAST}"
        return Judgement(Decision.WAIT, why)
    checks = [_errors(stable, canary), _latency(rule, stable, canary), _accepted(rule, stable, canary)]
    for decision in (Decision.ABORT, Decision.WAIT):
        reasons = [why for result, why in checks if result is decision]
        if reasons:
            return Judgement(decision, f"after {tried} answers: {'; '.join(reasons)}")
    why = f"after {tried} answers: {'; '.join(why for _, why in checks)}"
    if tried < PROMOTE_AFTER:
        return Judgement(Decision.WAIT, f"{why}; promoted after {PROMOTE_AFTER}")
    return Judgement(Decision.PROMOTE, why)


def _accepted(rule: CanaryRule, stable: Sequence[Sample], canary: Sequence[Sample]) -> Judgement:
    ours, theirs = acceptance(canary), acceptance(stable)
    if theirs is None:
        return Judgement(Decision.PROMOTE, "the stable version drafts nothing")
    if ours is None:
        return Judgement(Decision.WAIT, "the canary has drafted nothing")
    margin = Estimate(ours.mean - rule.keep * theirs.mean, ours.variance + rule.keep**2 * theirs.variance)
    return _decided(margin, f"acceptance {ours} against {theirs}, of which it must keep {rule.keep:g}")


def _latency(rule: CanaryRule, stable: Sequence[Sample], canary: Sequence[Sample]) -> Judgement:
    ours, theirs = _log_latency(canary), _log_latency(stable)
    if ours is None or theirs is None:
        return Judgement(Decision.WAIT, "no tokens to time")
    slower = Estimate(ours.mean - theirs.mean, ours.variance + theirs.variance)
    low, high = map(exp, slower.bounds)
    times = f"{exp(slower.mean):.3g} ({low:.3g} to {high:.3g}) times as slow"
    margin = Estimate(log(rule.slower) - slower.mean, slower.variance)
    return _decided(margin, f"{times}, of {rule.slower:g} at most")


def _errors(stable: Sequence[Sample], canary: Sequence[Sample]) -> Judgement:
    failed, tried = sum(sample.errors for sample in canary), sum(sample.tries for sample in canary)
    usual = sum(sample.errors for sample in stable) / sum(sample.tries for sample in stable)
    allowed = usual + MORE_ERRORS
    low, high = wilson(failed, tried, _Z)
    why = f"{failed} of {tried} failed, {low:.1%} to {high:.1%}, of {allowed:.1%} at most"
    if low > allowed:
        return Judgement(Decision.ABORT, why)
    # A share of errors below 5 % takes hundreds of answers to prove; the estimate must do.
    return Judgement(Decision.PROMOTE if failed <= allowed * tried else Decision.WAIT, why)


def _decided(margin: Estimate, why: str) -> Judgement:
    """The decision by the margin to a bound."""
    low, high = margin.bounds
    if high < 0:
        return Judgement(Decision.ABORT, why)
    return Judgement(Decision.PROMOTE if low >= 0 else Decision.WAIT, why)


def acceptance(samples: Sequence[Sample]) -> Estimate | None:
    """Share of drafted tokens that were accepted, a ratio estimator over answers; None where none was drafted."""
    used = [sample for sample in samples if sample.drafted > 0 and sample.answers > 0]
    if not used:
        return None
    drafted, answers = sum(sample.drafted for sample in used), sum(sample.answers for sample in used)
    share = sum(sample.accepted for sample in used) / drafted
    assumed = (drafted / answers) ** 2 * share * (1 - share) / 4
    residuals = sum((sample.accepted - share * sample.drafted) ** 2 / sample.answers for sample in used)
    each = (residuals + _PRIOR * assumed) / (len(used) - 1 + _PRIOR)
    return Estimate(share, answers * each / drafted**2)


def _log_latency(samples: Sequence[Sample]) -> Estimate | None:
    """Mean logarithm of seconds per token, over samples: one slow answer must not decide."""
    values = [log(sample.seconds_per_token) for sample in samples if sample.seconds_per_token]
    if not values:
        return None
    mean = sum(values) / len(values)
    each = (sum((value - mean) ** 2 for value in values) + _PRIOR / 4) / (len(values) - 1 + _PRIOR)
    return Estimate(mean, each / len(values))
