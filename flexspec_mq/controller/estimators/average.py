"""The mean of samples that may change: old ones fade by count and by age, and a step starts it anew."""

from math import exp, sqrt

_SIGMA = 1.2533
"""Standard deviations of a normal distribution in one mean absolute deviation."""
_SLACK = 1.0
"""Deviations that a sample may be off without being a sign of a step."""
_ALARM = 8.0
"""Deviations beyond that, summed up over samples on one side, which are one."""
_MOST = 4.0
"""Deviations that one sample counts at most, so that a step takes three of them and a lone spike is none."""
_DOUBT = 1.0
"""Least sum for a doubt: with fewer it is not worth a sample more to see whether there is a step."""
_FLOOR = 0.05
"""Deviation that the test takes for granted, as a share of the mean: of equal samples, no tiny change is a step."""


class Average:
    """A mean, how far samples lie from it, and how well it is known.

    The first samples count alike, then each newest one for `1 / memory`. A step is found by Page's test for a change
    of the mean (E. S. Page, Continuous inspection schemes, Biometrika 1954): then the median of the last three
    samples takes the mean's place, and counts as three.

    Args:
        memory: samples that count.
        fade: seconds in which what is known fades to 1/e.

    Attributes:
        mean: None before a sample.
        deviation: mean absolute deviation of samples. A single one counts as half of its value, as in RFC 6298.
        error: standard error of the mean, as of the newest sample; None before one.
        known: samples that the mean rests on, those before the newest one faded.
        steps: found so far.
    """

    __slots__ = (
        "_at", "_calm", "_fade", "_last", "_most", "_score",
        "deviation", "error", "known", "mean", "steps",
    )  # fmt: skip

    def __init__(self, memory: float = 8.0, fade: float = 30.0) -> None:
        self._most = memory - 1.0
        self._fade = fade
        self._at = 0.0
        self._score = (
            0.0  # of the test: positive where the mean may have risen, negative where it may have fallen
        )
        self._calm = 0.0  # the deviation before that
        self._last = 0.0, 0.0
        self.mean: float | None = None
        self.deviation = 0.0
        self.error: float | None = None
        self.known = 0.0
        self.steps = 0

    @property
    def doubtful(self) -> bool:
        """Whether the newest samples are so far off that some more like them are a step."""
        return abs(self._score) >= _DOUBT

    def stepped(self, sample: float, now: float) -> None:
        """Take a sample of which something else says that it follows a step; it is worth one more to make sure."""
        if self.mean is None:
            self.update(sample, now)
            return
        self.mean, self.known, self._at, self._last = sample, 1.0, now, (sample, sample)
        self._score, self._calm = _DOUBT, self.deviation
        self.error = _SIGMA * self.deviation
        self.steps += 1

    def update(self, sample: float, now: float) -> None:
        """Take a sample, at a time in seconds on a clock that does not go back."""
        mean, passed, self._at = self.mean, now - self._at, now
        if mean is None:
            self.mean, self.deviation, self.known = sample, abs(sample) / 2, 1.0
            self._last = sample, sample
            self.error = _SIGMA * self.deviation
            return
        known = min(self.known, self._most)
        if passed > 0.0:
            known *= exp(-passed / self._fade)
        if known < 1.0:  # hardly anything is left that could have changed
            self._score = 0.0
        off, score = sample - mean, self._score
        scale = max(self._calm if score else self.deviation, _FLOOR * abs(mean)) or 1e-9
        surprise = max(-_MOST, min(_MOST, off / scale))
        # Page's test on the side where it stands; from where it falls to 0, on either.
        if score > 0.0:
            score = max(0.0, score + surprise - _SLACK)
        elif score < 0.0:
            score = min(0.0, score + surprise + _SLACK)
        if not score and abs(surprise) > _SLACK:
            score = surprise - _SLACK if surprise > 0.0 else surprise + _SLACK
            self._calm = self.deviation
        if abs(score) > _ALARM:
            self.mean, self.deviation, self.known = sorted((*self._last, sample))[1], self._calm, 3.0
            self._score = 0.0
            self.steps += 1
        else:
            weight = 1.0 / (known + 1.0)
            self._score = score
            self.mean = mean + off * weight
            self.deviation += (abs(off) - self.deviation) * weight
            self.known = known + 1.0
        self._last = self._last[1], sample
        self.error = _SIGMA * self.deviation / sqrt(self.known)


class Rate:
    """Tokens per second of a session, smoothed over about eight rounds. Silence counts once it has ended.

    Attributes:
        at: when the newest tokens came; None before any.
        per_second: None before a sample: the first tokens come after the prompt has been read, and tell nothing.
    """

    __slots__ = ("_seconds", "_tokens", "at", "per_second")

    def __init__(self) -> None:
        self.at: float | None = None
        self._seconds = self._tokens = 0.0
        self.per_second: float | None = None

    def update(self, tokens: int, now: float) -> None:
        """Take tokens that were committed now, in seconds on any clock that does not go back."""
        before, self.at = self.at, now
        if before is None:
            return
        took = now - before
        weight = 1 / 8 if self._seconds else 1.0
        self._seconds += (took - self._seconds) * weight
        self._tokens += (tokens - self._tokens) * weight
        self.per_second = self._tokens / self._seconds if self._seconds > 0 else None
