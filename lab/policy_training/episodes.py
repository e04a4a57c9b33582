"""Episodes that are drawn: link, texts, and how fast target, device and worker are."""

import math
import random
from dataclasses import replace

from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.cost import DraftTimes, Times
from lab.simulator.recording import RecordedText, Recording
from lab.testbed.link.profiles import Figure, LinkPlan, Outages, Profile, State, WayFigures

_VOCABULARY = 30_000
_EASY, _HARD = (0.75, 0.98), (0.1, 0.65)
"""Shares of positions at which a draft is right, in easy and hard pieces of a text."""
_LASTS = 2.0, 12.0
"""Mean tokens of a piece."""
_COPIED = 0.25
"""Share of texts that repeat pieces of their prompt."""
_PROMPT = 16, 1200


def drawn_recording(rng: random.Random, lengths: tuple[int, ...], limit: int) -> Recording:
    """Texts of given lengths, for one draft.

    Args:
        rng: draws all.
        lengths: tokens of each text, `limit` at most.
        limit: tokens that texts are asked for.
    """
    easy, hard = rng.uniform(*_EASY), rng.uniform(*_HARD)
    texts = tuple(_text(rng, length, easy, hard, number) for number, length in enumerate(lengths))
    return Recording(
        limit=limit,
        fingerprint=bytes(16).hex(),
        eos=(0,),
        vocab_size=_VOCABULARY,
        max_context=8192,
        texts=texts,
    )


def _text(rng: random.Random, length: int, easy: float, hard: float, number: int) -> RecordedText:
    prompt = tuple(rng.randrange(1, _VOCABULARY) for _ in range(int(log_uniform(rng, *_PROMPT))))
    tokens: list[int] = []
    copies = rng.random() < _COPIED
    while len(tokens) < length:
        if copies and rng.random() < 0.05:
            start = rng.randrange(len(prompt))
            tokens += prompt[start : start + rng.randrange(6, 24)]
        else:
            tokens.append(rng.randrange(1, _VOCABULARY))
    del tokens[length:]
    tokens[-1] = 0
    proposals = []
    lasts = log_uniform(rng, *_LASTS)
    is_easy = rng.random() < 0.5
    for token in tokens:
        if rng.random() < 1 / lasts:
            is_easy = not is_easy
        share = easy if is_easy else hard
        right = rng.random() < share
        confidence = min(0.99, max(0.02, share + rng.gauss(0.0, 0.1)))
        proposals.append((token if right else (token + 1) % _VOCABULARY, confidence))
    return RecordedText(prompt, 0.0, number, tuple(tokens), tuple(proposals))


_SOURCE = "drawn"
_DELAY_MS = 0.5, 320.0
_RATE_MBIT = 0.3, 100.0
_DWELL_S = 2.0, 20.0
_CHANGES = 0.4
"""Share of links with several states."""
_OUTAGES = 0.08
"""Share of links with outages."""


def drawn_link(rng: random.Random) -> LinkPlan:
    """Any link: near or far, steady or not."""
    number = rng.choice((2, 3)) if rng.random() < _CHANGES else 1
    names = [f"state {one}" for one in range(number)]
    dwell = Figure(log_uniform(rng, *_DWELL_S), _SOURCE) if number > 1 else None
    states = tuple(State(name, *_ways(rng), dwell_s=dwell) for name in names)
    outages = None
    if rng.random() < _OUTAGES:
        shortest = log_uniform(rng, 0.5, 2.0)
        outages = Outages(
            Figure(log_uniform(rng, 10.0, 60.0), _SOURCE),
            Figure(shortest, _SOURCE),
            Figure(shortest * log_uniform(rng, 1.0, 8.0), _SOURCE),
        )
    return LinkPlan("drawn", Profile("drawn", states, outages), rng.getrandbits(32))


def _ways(rng: random.Random) -> tuple[WayFigures, WayFigures]:
    delay = log_uniform(rng, *_DELAY_MS)
    jitter = delay * rng.choice((0.05, 0.2, 0.6, 2.0)) if delay < 40.0 else delay * rng.uniform(0.02, 0.3)
    loss = rng.choice((0.0, 0.1, 0.5, 1.5))
    return _way(delay, jitter, loss, log_uniform(rng, *_RATE_MBIT)), _way(
        delay, jitter, loss, log_uniform(rng, *_RATE_MBIT)
    )


def _way(delay: float, jitter: float, loss: float, rate: float) -> WayFigures:
    queue = max(64.0, rate * 1000 / 8 / 4)
    return WayFigures(*(Figure(value, _SOURCE) for value in (delay, jitter, rate, loss, queue)))


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    """Any number between two, as likely to be below their geometric mean as above."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


_FORWARD_MS = 10.0, 200.0
_TOKEN_MS = 2.0, 40.0
"""Milliseconds of a token of a device's draft."""
_ROW = 0.002, 0.15
"""Time that a row adds to a forward, as a share of it."""
_FASTER = 0.15, 1.2
"""A worker's own draft takes so much of the device's time."""
_WORKER_DRAFTS = 0.7
"""Share of workers with a draft."""
_CROWDED = 0.3
"""Share of workers with other sessions."""
_LENGTHS = 16, 32, 48, 64
_LIMIT = 64


def drawn_setting(seed: int) -> Setting:
    """The episode of a seed: two texts, of which the second finds the node with what the first one taught it."""
    rng = random.Random(f"episode {seed}")
    lengths = (rng.choice(_LENGTHS), _LIMIT)
    drafts = rng.random() < _WORKER_DRAFTS
    return Setting(
        recording=drawn_recording(rng, lengths, _LIMIT),
        times=_drawn_times(rng),
        link=drawn_link(rng),
        worker=replace(LIKE_OURS, drafts=drafts, lookup=drafts),
        others=int(log_uniform(rng, 1.0, 9.0)) if rng.random() < _CROWDED else 0,
        settle=2.0,
        seed=rng.getrandbits(32),
    )


def _drawn_times(rng: random.Random) -> Times:
    """Times of any target, draft and device."""
    forward, token = log_uniform(rng, *_FORWARD_MS), log_uniform(rng, *_TOKEN_MS)
    row, session = forward * log_uniform(rng, *_ROW), forward * rng.uniform(0.02, 0.5)
    read, own = forward * log_uniform(rng, 0.002, 0.05), token * log_uniform(rng, *_FASTER)
    return Times(
        token=forward,
        session=session,
        row=row,
        read=read,
        draft=DraftTimes(token=own, session=own * rng.uniform(0.1, 0.8), read=own * rng.uniform(0.05, 0.3)),
        device=DraftTimes(token=token, session=token, read=token * rng.uniform(0.05, 0.3)),
        step=rng.uniform(0.0, 3.0),
        broker=rng.uniform(0.1, 1.0),
    )
