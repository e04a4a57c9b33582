"""Ways to make drafts, and how fast each will be: the renewal theorem over what happens between two corrections.

From one correction of a draft to the next, everything has its time. The edge learns of the correction half a round trip
later, drafts token after token, and sends a batch whenever one is full and the window allows it. The worker's forwards
follow one another: each verifies what has arrived of the draft, or, where the worker may run ahead, decides one token
without. All of that is the same in each cycle until the draft is wrong, and how far it is right has a known law. So
tokens per second are the expected tokens of a cycle over its expected seconds.
"""

from functools import lru_cache
from math import ceil

import msgspec

from flexspec_mq.controller.observation import Observation

LENGTHS = 1, 2, 3, 4, 8
"""K that are considered; finer steps change seconds by less than 1 % in simulated time."""
WINDOWS = 1, 2, 3
ROW = 0.01
"""Share of a forward that a drafted token adds to it, where the worker does not say: that of a large target."""
_LATE = 0.12
"""Share of a forward by which batches are taken to be late: one that would just come in time misses it where anything
takes longer."""
ASKS = 4
"""Verdicts of a worker that may draft, until it is known how many tokens it does."""
TEXT = 128
"""Tokens that a text is taken to go on for, at most: longer forecasts are about other texts."""
_LONGEST = 64
"""Tokens of a cycle that are looked at; a draft is hardly ever right for longer."""
_NEVER = 0.02
"""Probability below which a cycle is not followed any further."""


class RoundTimes(msgspec.Struct, frozen=True):
    """Parts of a session's rounds, in seconds.

    Attributes:
        round_trip: round trip of the network, without the worker's time.
        forward: time from one forward of the target for the session to the next.
        row: time that a drafted token adds to a forward.
        token: time of a drafted token on the device.
        acceptance: probability that the i-th drafted token is right given that those before it were; the last one
            holds for all behind it. Not empty.
        wait: time until a forward begins, for a session that the worker had to wait for; others may be in one.
    """

    round_trip: float
    forward: float
    row: float
    token: float
    acceptance: tuple[float, ...]
    wait: float = 0.0


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """Forecast of a plan, each figure for a committed token.

    Attributes:
        seconds: time from one to the next.
        drafted: tokens that the device drafts, at most.
        verdicts: messages of the worker, one for each forward.
    """

    seconds: float
    drafted: float = 0.0
    verdicts: float = 1.0


class Drafting(msgspec.Struct, frozen=True):
    """How drafts are made.

    Attributes:
        length: K; 0 leaves drafting to the worker.
        window: W.
        ahead: the worker may run ahead.
    """

    length: int
    window: int
    ahead: bool


NOBODY = Drafting(0, 1, True)
"""The device does not draft, and the worker goes on by itself."""
ASKING = Drafting(0, 1, False)
"""Nobody drafts, and the worker waits to be asked: where it may not run ahead."""


@lru_cache
def plan_space(most: int, *, ahead: bool, waits: bool = True) -> tuple[Drafting, ...]:
    """All drafting on the device, with K up to `most`, 1 at least; that which costs it least comes first.

    Args:
        most: tokens of a batch.
        ahead: the worker may run ahead.
        waits: true if it may wait for drafts.
    """
    lengths = [length for length in LENGTHS if length <= max(1, most)]
    waiting = [Drafting(length, 1, False) for length in lengths] if waits or not ahead else []
    running = [Drafting(length, window, True) for length in lengths for window in WINDOWS] if ahead else []
    return (*waiting, *running)


def round_times(seen: Observation, *, token: float | None = None) -> RoundTimes | None:
    """Times of a session's rounds; None while round trip, forward or draft are unknown.

    Args:
        seen: observation of its node.
        token: time of a drafted token where that is unknown.
    """
    if seen.draft_time is not None:
        token = seen.draft_time
    forward = seen.forward
    if seen.rtt is None or not forward or token is None:
        return None
    row = ROW * forward if seen.row_cost is None else seen.row_cost
    return RoundTimes(seen.rtt, forward, row, token, seen.acceptance, seen.queueing_delay)


def forecast(way: Drafting, times: RoundTimes) -> Forecast:
    """Forecast of a way to make drafts."""
    if way.length:
        return drafting(times, way, late=_LATE * times.forward if way.ahead else 0.0)
    # The worker decides one token a forward, however long the round trip is, or waits until it is asked for the next.
    return Forecast(times.forward if way.ahead else times.round_trip + times.wait + times.forward)


def drafting(times: RoundTimes, way: Drafting, *, late: float = 0.0) -> Forecast:  # noqa: C901  it is asked for often
    """Forecast of drafts that the device makes.

    Args:
        times: parts of the session's rounds.
        way: how they are made, of a length of 1 at least.
        late: seconds by which batches come later than they should.
    """
    length, window, ahead = way.length, way.window, way.ahead
    half = (times.round_trip + late) / 2
    forward, row, wait, drafts = times.forward, times.row, times.wait, length * times.token
    acceptance, last = times.acceptance, len(times.acceptance) - 1
    arrivals: list[float] = []  # when each batch that was sent is at the worker
    answers: list[float] = []  # when the edge hears that each is decided
    ready, sent, here = half, 0, 0  # when all that is sent was drafted; batches sent, and arrived
    tokens = seconds = verdicts = now = 0.0
    place, alive = 0, 1.0  # tokens that are decided, and the probability that the draft was right so far
    while place < _LONGEST and alive > _NEVER:
        # Batches are sent as far as the worker has use for them and the window allows.
        while not sent or arrivals[-1] <= now or sent * length <= place:
            before = sent - window
            if before >= len(answers):
                break
            ready += drafts
            if before >= 0 and answers[before] > ready:
                ready = answers[before]
            arrivals.append(ready + half)
            sent += 1
        while here < sent and arrivals[here] <= now:
            here += 1
        if here * length <= place:
            needed = place // length
            if needed >= sent:
                break  # the edge goes on from what it is told, as from a correction
            if not ahead:
                begins = (max(now, arrivals[needed])) + wait
                seconds += alive * (begins - now)
                now = begins
                continue
        fed = here * length - place
        fed = max(fed, 0)
        took = forward + fed * row
        now += took
        seconds += alive * took
        verdicts += alive
        for _ in range(fed + 1):
            tokens += alive
            alive *= acceptance[min(last, place)]
            place += 1
        while len(answers) < sent and place >= (len(answers) + 1) * length:
            answers.append(now + half)
    drafted = (max(window, sent)) * length
    most = seconds / times.token if times.token > 1e-9 else drafted
    return Forecast(seconds / tokens, (min(most, drafted)) / tokens, verdicts / tokens)


def worker_tokens(seen: Observation, length: float | None = None) -> float:
    """Tokens of a forward with so many drafts of the worker's, or as many as it makes.

    It has the device's draft, as far as anybody knows.
    """
    length = seen.worker.per_verdict if length is None else length
    acceptance, last = seen.acceptance, len(seen.acceptance) - 1
    if not seen.worker.token:  # it stops where its draft doubts, and goes on where it does not
        return 1.0 + length * sum(acceptance) / len(acceptance)
    tokens = alive = 1.0
    for place in range(ceil(length)):
        alive *= acceptance[min(last, place)]
        tokens += alive * min(1.0, length - place)
    return tokens


def worker_reading(seen: Observation) -> float:
    """Seconds of a token that the worker's draft takes to read the prompt first, spread over the text."""
    if seen.worker.has_read:
        return 0.0
    return seen.worker.read * seen.prompt / max(1, min(seen.remaining, TEXT))


def worker_drafting(seen: Observation) -> Forecast:
    """Forecast of the worker's own drafts: of as many as it makes, or as many as are best before that is known."""
    own, row = seen.worker, seen.row_cost or 0.0
    lengths = LENGTHS if own.token and own.verdicts < ASKS else (own.per_verdict,)
    seconds, tokens = min(
        ((seen.forward + length * (own.token + row)) / tokens, tokens)
        for length in lengths
        for tokens in (worker_tokens(seen, length),)
    )
    return Forecast(seconds + worker_reading(seen), 0.0, 1.0 / tokens)
