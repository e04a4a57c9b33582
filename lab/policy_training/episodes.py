"""Episodes that are drawn: link, texts, and how fast target, device and worker are."""

import random
from dataclasses import replace

from lab.policy_training.drawn_links import drawn_link, log_uniform
from lab.policy_training.drawn_texts import drawn_recording
from lab.simulator.answers import LIKE_OURS, Setting
from lab.simulator.cost import DraftTimes, Times

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
