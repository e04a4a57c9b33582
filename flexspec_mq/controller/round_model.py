"""How fast a plan will be: the renewal theorem over what happens between two corrections of a draft.

From one correction to the next, everything has its time. The edge learns of the correction half a round trip later,
drafts token after token, and sends a batch whenever one is full and the window allows it. The worker's forwards
follow one another: each verifies what has arrived of the draft, or, where the worker may run ahead, decides one token
without. All of that is the same in each cycle until the draft is wrong, and how far it is right has a known law. So
tokens per second are the expected tokens of a cycle over its expected seconds.
"""

from __future__ import annotations

import msgspec

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


def streaming(times: RoundTimes) -> Forecast:
    """The worker decides one token a forward, however long the round trip is."""
    return Forecast(times.forward)


def asking(times: RoundTimes) -> Forecast:
    """Nobody drafts, and the worker waits until it is asked for the next token."""
    return Forecast(times.round_trip + times.wait + times.forward)


def drafting(  # noqa: C901  one function, as a choice among plans asks for dozens of forecasts
    times: RoundTimes, length: int, window: int, *, ahead: bool, late: float = 0.0
) -> Forecast:
    """The device drafts.

    Args:
        times: parts of the session's rounds.
        length: K, tokens of a batch; at least 1.
        window: W, batches that may be unanswered.
        ahead: the worker goes on while nothing of the draft is there; otherwise it waits.
        late: seconds by which batches come later than they should.
    """
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
