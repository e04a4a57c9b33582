"""Seconds of an answer, from figures of a pair: streamed, with drafts of the device, and with drafts beside the target.

Seconds a token are the closed form's, which plans by them; before the first token there are a prompt to read, twice
where a draft reads it too, and a round trip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flexspec_mq.controller.closed_form import ClosedFormPolicy
from flexspec_mq.controller.observation import PLACES, UNTRIED, Observation
from flexspec_mq.controller.plan import Plan
from flexspec_mq.links import LinkProfile
from schemas.messages import MAX_AHEAD

LENGTHS = 1, 2, 4, 8
"""K that are told."""
_PROGRAMS = 0.0015
"""Seconds that programs and broker add to a round trip on a loopback."""
_ROUND_BYTES = 174.0, 167.0
"""IP bytes up and down of a round of eight drafted tokens, by ``python -m lab.benchmarks.transport``."""
_PROMPT_BYTES = 3.0
"""Bytes of a token of a prompt that is sent."""
_KNOWN = 1000
"""Tokens that were judged and drafted, so that the closed form tries nothing: more than it ever asks for."""
_RIGHT = 4.0
"""Tries that a place's acceptance is taken to have had beside those seen, as good as all places together."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a pair, in seconds.

    Attributes:
        right: Verdict on the draft's token for each text and position: whether it is the target's.
        prompt: tokens of a prompt, in the mean.
        forwards: time of the target's forward by drafted tokens in it, 0 and each of `LENGTHS`.
        target_reads, draft_reads: time of a prompt of that length.
        token: time of a drafted token.
    """

    right: Sequence[Sequence[bool]]
    prompt: float
    forwards: Mapping[int, float]
    target_reads: float
    draft_reads: float
    token: float

    @property
    def row(self) -> float:
        """Time that a drafted token adds to a forward, in the mean of four."""
        return max(0.0, self.forwards[4] - self.forwards[0]) / 4

    def tokens_per_round(self, length: int) -> float:
        """Committed tokens for each verification of `length` drafted tokens."""
        return sum(map(len, self.right)) / sum(len(runs(text, length)) for text in self.right)

    def acceptance(self) -> tuple[float, ...]:
        """Probability by place in a batch that a token is right, given that those before it were."""
        tried, right = Counter[int](), Counter[int]()
        for text in self.right:
            place = 0
            for run in runs(text, PLACES):
                tried.update(range(min(run + 1, PLACES, len(text) - place - 1)))
                right.update(range(run))
                place += run + 1
        usual = right.total() / tried.total() if tried else UNTRIED
        return tuple((right[i] + _RIGHT * usual) / (tried[i] + _RIGHT) for i in range(PLACES))

    def with_forward(self, seconds: float) -> Figures:
        """The same draft with a target whose forwards and reading are as much slower as one row is."""
        slower = seconds / self.forwards[0]
        forwards = {rows: slower * each for rows, each in self.forwards.items()}
        return replace(self, forwards=forwards, target_reads=slower * self.target_reads)


def runs(right: Sequence[bool], length: int) -> list[int]:
    """Accepted tokens of each round that writes a text, with drafts of up to `length` tokens.

    Greedy drafts behind accepted tokens are those behind the text itself, so that no round depends on where others
    begin. A draft ends before the last token of a text, which comes with the verdict.
    """
    found, place = [], 0
    while place < len(right):
        end = min(place + length, len(right) - 1)
        run = next((i for i in range(place, end) if not right[i]), end) - place
        found.append(run)
        place += run + 1
    return found


@dataclass(frozen=True, slots=True)
class AnswerForecast:
    """Forecast of an answer over a link, in seconds.

    Attributes:
        streamed: time of the target alone.
        device, worker: time with drafts of the device, and of the worker.
        device_plan, worker_plan: plan of each, in words.
    """

    streamed: float
    device: float
    worker: float
    device_plan: str
    worker_plan: str


def forecast(figures: Figures, link: LinkProfile, tokens: int) -> AnswerForecast:
    """Forecast an answer of so many tokens over a link between device and broker."""
    alone, more = figures.forwards[0], max(0, tokens - 1)
    first = _PROGRAMS + link.seconds(_ROUND_BYTES[0] + _PROMPT_BYTES * figures.prompt, _ROUND_BYTES[1])
    first += figures.target_reads + alone
    # The worker runs ahead while the device's draft still reads the prompt.
    late = min(more * alone, max(0.0, figures.draft_reads + figures.token - figures.target_reads))
    per_token, plan = min(_plans(figures, link, tokens))
    beside = {length: figures.draft_reads + more * _beside(figures, length) for length in LENGTHS}
    beside[0] = more * alone
    length = min(beside, key=lambda length: beside[length])
    return AnswerForecast(
        streamed=first + more * alone,
        device=first + late + (more - late / alone) * per_token,
        worker=first + beside[length],
        device_plan=plan,
        worker_plan=f"worker drafts K={length}" if length else "nobody drafts",
    )


def _beside(figures: Figures, length: int) -> float:
    """Seconds of a token where the worker drafts so many before each forward."""
    return (length * figures.token + figures.forwards[length]) / figures.tokens_per_round(length)


def _plans(figures: Figures, link: LinkProfile, tokens: int) -> list[tuple[float, str]]:
    """Seconds of a token where only the device may draft, and the plan: the fastest of each kind."""
    seen = Observation(
        rtt=_PROGRAMS + link.seconds(*_ROUND_BYTES),
        forward=figures.forwards[0],
        row_cost=figures.row,
        draft_time=figures.token,
        draft_timed=True,
        acceptance=figures.acceptance(),
        judged=_KNOWN,
        prompt=round(figures.prompt),
        remaining=tokens,
        drafted=_KNOWN,
    )
    policy = ClosedFormPolicy(Plan(ahead=MAX_AHEAD))
    policy.plan(seen)
    return [((plan.ms_per_token or 0.0) / 1000, plan.name) for plan in policy.alternatives()]
