"""Recordings of random texts, times of a worker, and what tests of the simulator share."""

import random

from lab.simulator.cost import DraftTimes, Times
from lab.simulator.recording import RecordedText, Recording

EOS, VOCABULARY, CONTEXT, LIMIT = 0, 1000, 4096, 24
TIMES = Times(
    token=30.0,
    session=10 / 3,
    row=1.0,
    read=1.0,
    draft=DraftTimes(token=3.0, session=0.5, read=1.0),
    device=DraftTimes(token=4.0, read=1.0),
    step=1.0,
    request=2.0,
)


def random_recording(
    texts: int = 6,
    right: float = 0.7,
    seed: int = 1,
    prompt: int = 5,
    limit: int = LIMIT,
    *,
    ends: bool = True,
) -> Recording:
    """A recording of random texts, in which the draft is right in a share of positions and knows how often.

    With `ends`, every third text ends half-way.
    """
    rng = random.Random(seed)
    recorded = []
    for number in range(texts):
        tokens = [rng.randrange(1, VOCABULARY) for _ in range(limit)]
        if ends and number % 3 == 0:
            tokens[limit // 2 :] = [EOS]
        proposals = [(token if rng.random() < right else (token + 1) % VOCABULARY, right) for token in tokens]
        words = tuple(rng.randrange(1, VOCABULARY) for _ in range(prompt))
        recorded.append(
            RecordedText(words, 0.7 * (number % 2), rng.getrandbits(64), tuple(tokens), tuple(proposals))
        )
    return Recording(
        limit=limit,
        fingerprint=bytes(range(16)).hex(),
        eos=(EOS,),
        vocab_size=VOCABULARY,
        max_context=CONTEXT,
        texts=tuple(recorded),
    )
