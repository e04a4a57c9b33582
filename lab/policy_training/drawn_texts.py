"""Texts without words: what matters of them is where a draft is right, and what was said before."""

import random

from lab.policy_training.drawn_links import log_uniform
from lab.simulator.recording import RecordedText, Recording

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
