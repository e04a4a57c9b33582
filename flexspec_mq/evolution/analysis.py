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

from __future__ import annotations

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
    """

    keep: float = 0.8
    slower: float = 1.5

    def __post_init__(self) -> None:
        """Refuse bounds that say nothing.

        Raises:
            UsageError: naming the value.
        """
        for flag, value, low, high in (("--keep", self.keep, 0, 1), ("--slower", self.slower, 1, inf)):
            if not low <= value <= high:
                raise UsageError(f"{flag} {value:g} is not between {low:g} and {high:g}")


DEFAULT_RULE = CanaryRule()


class Interval(NamedTuple):
    """An estimate between its bounds."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


class Decision(StrEnum):
    """The fate of a canary."""

    WAIT = "wait"
    PROMOTE = "promote"
    ABORT = "abort"


class Judgement(NamedTuple):
    """A decision on a canary, and why."""

    decision: Decision
    why: str


class _Estimate(NamedTuple):
    """A mean and its variance."""

    mean: float
    variance: float

    def interval(self) -> Interval:
        spread = _Z * sqrt(self.variance)
        return Interval(self.mean - spread, self.mean, self.mean + spread)


def acceptance(samples: Sequence[Sample]) -> Interval | None:
    """Share of drafted tokens that were accepted; None where none was drafted."""
    estimate = _acceptance(samples)
    if estimate is None:
        return None
    low, middle, high = estimate.interval()
    return Interval(max(0.0, low), middle, min(1.0, high))


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
    ours, theirs = _acceptance(canary), _acceptance(stable)
    if theirs is None:
        return Judgement(Decision.PROMOTE, "the stable version drafts nothing")
    if ours is None:
        return Judgement(Decision.WAIT, "the canary has drafted nothing")
    spread = _Z * sqrt(ours.variance + rule.keep**2 * theirs.variance)
    both = f"{ours.interval()} against {theirs.interval()}"
    why = f"acceptance {both}, of which it must keep {rule.keep:g}"
    return _decided(ours.mean - rule.keep * theirs.mean, spread, why)


def _latency(rule: CanaryRule, stable: Sequence[Sample], canary: Sequence[Sample]) -> Judgement:
    ours, theirs = _log_latency(canary), _log_latency(stable)
    if ours is None or theirs is None:
        return Judgement(Decision.WAIT, "no tokens to time")
    slower = _Estimate(ours.mean - theirs.mean, ours.variance + theirs.variance)
    times = Interval(*map(exp, slower.interval()))
    why = f"{times} times as slow, of {rule.slower:g} at most"
    return _decided(log(rule.slower) - slower.mean, _Z * sqrt(slower.variance), why)


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


def _decided(margin: float, spread: float, why: str) -> Judgement:
    """The decision by the margin to a bound, and the half width of its interval."""
    if margin + spread < 0:
        return Judgement(Decision.ABORT, why)
    return Judgement(Decision.PROMOTE if margin - spread >= 0 else Decision.WAIT, why)


def _acceptance(samples: Sequence[Sample]) -> _Estimate | None:
    """Accepted by drafted tokens: a ratio estimator over answers."""
    used = [sample for sample in samples if sample.drafted > 0 and sample.answers > 0]
    if not used:
        return None
    drafted, answers = sum(sample.drafted for sample in used), sum(sample.answers for sample in used)
    share = sum(sample.accepted for sample in used) / drafted
    assumed = (drafted / answers) ** 2 * share * (1 - share) / 4
    residuals = sum((sample.accepted - share * sample.drafted) ** 2 / sample.answers for sample in used)
    each = (residuals + _PRIOR * assumed) / (len(used) - 1 + _PRIOR)
    return _Estimate(share, answers * each / drafted**2)


def _log_latency(samples: Sequence[Sample]) -> _Estimate | None:
    """Mean logarithm of seconds per token, over samples: one slow answer must not decide."""
    values = [log(sample.seconds_per_token) for sample in samples if sample.seconds_per_token]
    if not values:
        return None
    mean = sum(values) / len(values)
    each = (sum((value - mean) ** 2 for value in values) + _PRIOR / 4) / (len(values) - 1 + _PRIOR)
    return _Estimate(mean, each / len(values))
